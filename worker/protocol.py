"""What supervisor and runner say to each other: files in a work folder, JSON lines on the runner's stdout.

The supervisor writes WORK/job.json (a `RunnerInput`) and starts `python -m worker.runner WORK`. The runner
sends one `RunnerMessage` a line; everything else that it prints goes to stderr. Its last line is `finished`
or `failed`; an exit without either is a crash. Results lie in WORK/output (see `RunnerOutput`).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from app.core.digests import sha256_of_files
from app.core.errors import Blame, Problem
from app.core.huggingface import SHARD, WEIGHTS_ROLE
from app.core.report import ReportArtifact
from app.core.rows import Columns
from app.core.spec import JobSpec
from app.core.states import Stage

INPUT_NAME = "job.json"
OUTPUT_FOLDER = "output"
OUTPUT_NAME = "output.json"
KEPT_NAME = "kept.json"
# transformers takes 2 s of CPU time, in the runner and in the process that reads the exported folder.
_IMPORTS = {"huggingface": ("worker.models.huggingface.network",)}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelInput(_Frozen):
    """An uploaded model: its files by role, already on the local disk.

    A single file of weights has the role `weights`; the others of a folder, shards too, have their names.
    """

    format: str
    architecture: dict[str, JsonValue]
    files: dict[str, Path]
    sha256: dict[str, str]

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold weights: one, or all shards in their order."""
        return tuple(
            self.files[role]
            for role in sorted(self.files)
            if role == WEIGHTS_ROLE or SHARD.fullmatch(role) is not None
        )

    @property
    def imports(self) -> tuple[str, ...]:
        """The modules that a process which reads it imports for seconds, and only for such a format."""
        return _IMPORTS.get(self.format, ())

    @property
    def digest(self) -> str:
        """The digest that the service names the model by."""
        return sha256_of_files(self.sha256)


class DatasetInput(_Frozen):
    """An uploaded dataset: its manifest as sent, and one local file per split."""

    format: str
    task: str
    layout: str | None = None
    normalize: dict[str, list[float]] | None = None
    columns: Columns | None = None
    max_tokens: int | None = None
    block_tokens: int | None = None
    files: dict[str, Path]
    sha256: dict[str, str]


class RunnerInput(_Frozen):
    """`is_halved`: an earlier attempt was killed for want of memory, so batches are of half the size."""

    kind: Literal["job"] = "job"
    job_id: str
    attempt: int = 1
    spec_sha256: str
    spec: JobSpec
    model: ModelInput
    dataset: DatasetInput | None
    threads: int
    device: Literal["cpu", "cuda"]
    is_halved: bool = False


class CheckInput(_Frozen):
    """Ask for the deep check of a model: names, shapes, finite weights; layers, MACs, signature."""

    kind: Literal["check_model"] = "check_model"
    model_id: str
    model: ModelInput
    threads: int


class StageStarted(_Frozen):
    type: Literal["stage.started"] = "stage.started"
    stage: Stage


class StageFinished(_Frozen):
    """`skipped` when the stage's manifest stood from an earlier attempt."""

    type: Literal["stage.finished"] = "stage.finished"
    stage: Stage
    skipped: bool = False
    data: dict[str, JsonValue] = Field(default_factory=dict)


class Progress(_Frozen):
    """`fraction` of the whole job, `step` of `total` in this stage; sent at most once a second."""

    type: Literal["progress"] = "progress"
    stage: Stage
    fraction: float
    step: int
    total: int
    eta_s: float | None
    data: dict[str, JsonValue] = Field(default_factory=dict)


class CheckpointWritten(_Frozen):
    """A checkpoint of a training stands in the work folder; heard by the supervisor, and no event."""

    type: Literal["checkpoint.written"] = "checkpoint.written"
    stage: Stage
    step: int


class MemoryRanOut(_Frozen):
    """A training is done again in smaller batches; noted in the attempt, and no event."""

    type: Literal["memory.ran_out"] = "memory.ran_out"
    stage: Stage
    detail: str


class Failed(_Frozen):
    type: Literal["failed"] = "failed"
    problem: Problem
    blame: Blame


class Finished(_Frozen):
    type: Literal["finished"] = "finished"


RunnerMessage = Annotated[
    StageStarted | StageFinished | Progress | CheckpointWritten | MemoryRanOut | Failed | Finished,
    Field(discriminator="type"),
]
MESSAGE = TypeAdapter[RunnerMessage](RunnerMessage)


class OutputMask(_Frozen):
    """One pruned tensor; `file` in WORK/output holds packbits(bitorder="little") of the C-order mask."""

    name: str
    shape: tuple[int, ...]
    pattern: str
    sparsity: float
    sha256: str
    file: str


class RunnerOutput(_Frozen):
    """WORK/output/output.json: artifact files lie in WORK/output/artifacts/<name>, the report beside them."""

    kind: Literal["job"] = "job"
    artifacts: tuple[ReportArtifact, ...]
    masks: tuple[OutputMask, ...]
    report: str = "report.json"


class KeptOutput(_Frozen):
    """WORK/output/kept.json: what a job leaves that failed; the files lie in WORK/output/artifacts/<name>."""

    artifacts: tuple[ReportArtifact, ...]


class ModelLayer(_Frozen):
    """`group` makes the layer's outputs; they go together with `cut_with`, or stay, `cut_why_not`.

    It may go with the whole `block` that it lies in, or stays, `block_why_not`. `aliases` are other names of
    its tensor.
    """

    name: str
    aliases: tuple[str, ...] = ()
    type: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    prunable: bool
    group: str | None
    why_not: str | None
    cut_with: tuple[str, ...] = ()
    cut_why_not: str | None = None
    block: str | None = None
    block_why_not: str | None = None


class GroupCut(_Frozen):
    """One axis of one tensor through which all units of a group go, with so many positions of it each."""

    tensor: str
    axis: int
    positions: int


class ModelGroup(_Frozen):
    """Units that can be cut out of the model one by one; `why_not` where none can."""

    name: str
    kind: str
    units: int
    why_not: str | None
    cuts: tuple[GroupCut, ...]


class ModelBlock(_Frozen):
    """A block of the list `stack`: what the model loses without it, and `why_not` where it has to stay."""

    name: str
    stack: str
    parameters: int
    macs: int
    why_not: str | None


class CheckOutput(_Frozen):
    """What the deep check found; `forward_ms` is one sample in a batch, on the runner's threads."""

    kind: Literal["check_model"] = "check_model"
    parameters: int
    prunable_parameters: int
    macs: int
    input_signature: dict[str, JsonValue]
    forward_ms: float
    layers: tuple[ModelLayer, ...]
    groups: tuple[ModelGroup, ...] = ()
    blocks: tuple[ModelBlock, ...] = ()
    warnings: tuple[str, ...] = ()
