"""The names and kinds of what a job exports."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

Output = Literal["safetensors", "masks"]

MODEL_FILE = "model.safetensors"
MASKS_FILE = "masks.safetensors"


class ExportedFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: str
    media_type: str


EXPORTED: Mapping[Output, ExportedFile] = {
    "safetensors": ExportedFile(name=MODEL_FILE, kind="model", media_type="application/octet-stream"),
    "masks": ExportedFile(name=MASKS_FILE, kind="masks", media_type="application/octet-stream"),
}
