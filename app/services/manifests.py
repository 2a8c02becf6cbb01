"""Manifests: what a client says about the files that it uploads."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from app.core.rows import Columns
from app.core.strict import Strict

Name = Annotated[str, Field(min_length=1, max_length=200)]
FileName = Annotated[str, Field(min_length=1, max_length=255)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class PaddedChannels(Strict):
    """How many channels of zeros a module of a cut network pads: a size that no tensor has."""

    module: str = Field(min_length=1, max_length=256)
    attribute: Literal["channels_before", "channels_after"]
    count: Annotated[int, Field(ge=0, le=1_000_000)]


class KeptBlocks(Strict):
    """Which of the `blocks` of a list stayed: their numbers in the whole network, in order."""

    name: str = Field(min_length=1, max_length=256)
    kept: tuple[Annotated[int, Field(ge=0, le=100_000)], ...] = Field(min_length=1, max_length=100_000)
    blocks: Annotated[int, Field(ge=1, le=100_000)]

    @model_validator(mode="after")
    def _kept_are_some_of_the_blocks(self) -> "KeptBlocks":
        if list(self.kept) != sorted(set(self.kept)) or self.kept[-1] >= self.blocks:
            raise ValueError(
                f"kept are numbers from 0 to {self.blocks - 1}, each once and in order, "
                f"found {list(self.kept)}"
            )
        return self


class Cut(Strict):
    """The tensors are parts of those of the network: what a job's `architecture.json` says of its model."""

    padded: tuple[PaddedChannels, ...] = Field(default=(), max_length=10_000)
    blocks: tuple[KeptBlocks, ...] = Field(default=(), max_length=1_000)


class ArchitectureChoice(Strict):
    """A built-in network by name; its parameters are checked against the catalog."""

    library: str = Field(default="secateur", min_length=1, max_length=64)
    name: str = Field(min_length=1, max_length=128)
    params: dict[str, JsonValue] = Field(default_factory=dict)
    cut: Cut | None = None

    @model_serializer(mode="wrap")
    def _leave_out_what_is_whole(self, serialise: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        shown: dict[str, JsonValue] = serialise(self)
        return {name: value for name, value in shown.items() if name != "cut" or value is not None}


class ModelManifest(Strict):
    name: Name
    format: str = Field(min_length=1, max_length=40)
    architecture: ArchitectureChoice | None = None


class SplitFiles(Strict):
    """Which uploaded file holds which split; a dataset without `train` can only evaluate."""

    train: FileName | None = None
    validation: FileName | None = None
    test: FileName

    def by_name(self) -> dict[str, str]:
        """Return split → file name, without those that were not given."""
        return {split: name for split, name in self.model_dump().items() if name is not None}


class Normalize(Strict):
    """Per-channel mean and standard deviation, applied after uint8 is scaled to 0..1."""

    mean: tuple[Finite, ...] = Field(min_length=1, max_length=1024)
    std: tuple[Annotated[float, Field(gt=0.0, allow_inf_nan=False)], ...] = Field(
        min_length=1, max_length=1024
    )

    @model_validator(mode="after")
    def _has_equal_lengths(self) -> "Normalize":
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}")
        return self


class DatasetManifest(Strict):
    name: Name
    task: str = Field(min_length=1, max_length=40)
    format: str = Field(min_length=1, max_length=40)
    splits: SplitFiles
    layout: Literal["NCHW", "NHWC"] | None = None
    normalize: Normalize | None = None
    columns: Columns | None = None
    max_tokens: int | None = Field(
        default=None, ge=2, le=131_072, description="Longer texts are cut, and counted; 512 by default."
    )
    block_tokens: int | None = Field(
        default=None,
        ge=2,
        le=131_072,
        description="How many tokens a window of language modeling has; 256 by default.",
    )
