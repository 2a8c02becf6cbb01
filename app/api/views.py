"""The resources as clients see them: the shapes that OpenAPI documents."""

from datetime import datetime
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainSerializer

from app.core.errors import ErrorItem, Problem
from app.core.states import TERMINAL, AttemptClass, AttemptEnd, GateOutcome, JobStatus, ModelStatus, Stage
from app.core.tables import Artifact, Dataset, Job, JobAttempt, JobEvent, JobMask, Model

JsonMap = dict[str, JsonValue]
T = TypeVar("T")
Moment = Annotated[
    datetime,
    PlainSerializer(lambda at: at.isoformat(timespec="milliseconds").replace("+00:00", "Z"), return_type=str),
]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelView(_View):
    """An uploaded model; `parameters` counts every element of the file until the deep check is done.

    `warnings` is what the deep check found worth knowing, such as weights that are converted.
    """

    id: str
    name: str
    format: str
    architecture: JsonMap | None
    status: ModelStatus
    rejection: Problem | None
    sha256: str
    size_bytes: int
    parameters: int
    macs: int | None
    input_signature: JsonMap | None
    warnings: list[str]
    created_at: Moment


class ModelLayerView(_View):
    """A parameter of the model: how large, how costly, and whether it can be pruned.

    `aliases` are other names of one tensor, as of an embedding that is the output layer too; rows match them.
    `prunable` and `why_not` are about zeros. `group` makes its outputs, of which some can be cut out, at once
    from it and from `cut_with`; `cut_why_not` says why they have to stay. It can go with the whole `block`
    that it lies in, unless `block_why_not` says why that has to stay.
    """

    name: str
    aliases: list[str] = []
    type: str
    shape: list[int]
    parameters: int
    macs: int
    prunable: bool
    group: str | None
    why_not: str | None
    cut_with: list[str] = []
    cut_why_not: str | None = None
    block: str | None = None
    block_why_not: str | None = None


class SplitView(_View):
    """One split; `classes` is null when the labels do not look like 0..k-1, each more than once.

    Text has no shape. What only a worker can tell is null: samples and labels of parquet, windows of text.
    """

    n: int | None
    shape: list[int] | None
    dtype: str | None
    label_min: int | float | None
    label_max: int | float | None
    classes: int | None
    file: str
    sha256: str
    size_bytes: int


class DatasetView(_View):
    id: str
    name: str
    task: str
    format: str
    layout: str | None
    normalize: JsonMap | None
    columns: JsonMap | None
    max_tokens: int | None
    block_tokens: int | None
    splits: dict[str, SplitView]
    sha256: str
    size_bytes: int
    created_at: Moment


class ProgressView(_View):
    fraction: float
    step: int
    total: int
    eta_s: float | None


class GatesView(_View):
    outcome: GateOutcome
    results: list[JsonMap]


class JobView(_View):
    id: str
    name: str | None
    status: JobStatus
    is_terminal: bool
    stage: Stage | None
    progress: ProgressView
    attempt: int
    cancel_requested: bool
    pause_requested: bool
    next_run_at: Moment | None = Field(description="Not before: what failed may pass by itself.")
    gates: GatesView
    error: Problem | None
    model_id: str
    dataset_id: str | None
    spec: JsonMap
    resolved_spec: JsonMap
    spec_sha256: str
    labels: dict[str, str]
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    queue_position: int | None


class ValidationView(_View):
    """Whether a spec would be taken; `plan` is null while the model is being validated."""

    valid: bool
    errors: list[ErrorItem]
    resolved_spec: JsonMap | None
    plan: JsonMap | None


class EventView(_View):
    seq: int
    at: Moment
    type: str
    stage: Stage | None
    data: JsonMap


class ResumedFrom(_View):
    """What an attempt did not do again: a stage up to `step`, or the whole of it where that is null."""

    stage: Stage
    step: int | None


class AttemptView(_View):
    model_config = ConfigDict(frozen=True, serialize_by_alias=True)

    attempt: int
    epoch: int
    worker: str
    started_at: Moment
    ended_at: Moment | None
    ended: AttemptEnd | None
    class_: AttemptClass | None = Field(
        serialization_alias="class", description="Why it did not end well, which decides what came next."
    )
    detail: str | None
    device: str | None
    version: str | None = Field(description="The code that ran it.")
    last_beat_at: Moment | None
    resumed_from: ResumedFrom | None
    warnings: list[str]


class MaskView(_View):
    name: str
    shape: list[int]
    pattern: str
    sparsity: float
    sha256: str


class ArtifactView(_View):
    name: str
    kind: str
    size_bytes: int
    sha256: str
    media_type: str
    loads_in_clean_process: bool


class PageView(_View, Generic[T]):
    """One page of a list."""

    data: list[T]
    has_more: bool
    next_cursor: str | None = Field(description="Give it as `cursor` to get the next page.")


def view_model(model: Model) -> ModelView:
    names = ("id", "name", "format", "status", "sha256", "size_bytes", "parameters", "macs", "created_at")
    return ModelView(
        **{name: getattr(model, name) for name in names},
        architecture=model.manifest.get("architecture"),
        rejection=_problem(model.rejection),
        input_signature=model.input_signature,
        warnings=(model.inspection or {}).get("warnings", []),
    )


def view_dataset(dataset: Dataset) -> DatasetView:
    splits = {
        name: SplitView(
            **split,
            file=dataset.files[name]["name"],
            sha256=dataset.files[name]["sha256"],
            size_bytes=dataset.files[name]["size_bytes"],
        )
        for name, split in dataset.splits.items()
    }
    names = ("id", "name", "task", "format", "sha256", "size_bytes", "created_at")
    manifest_names = ("layout", "normalize", "columns", "max_tokens", "block_tokens")
    return DatasetView(
        **{name: getattr(dataset, name) for name in names},
        **{name: dataset.manifest.get(name) for name in manifest_names},
        splits=splits,
    )


def view_job(job: Job, queue_position: int | None = None) -> JobView:
    names = ("id", "name", "status", "stage", "progress", "attempt", "cancel_requested", "gates", "model_id")
    more = (
        "dataset_id",
        "spec",
        "resolved_spec",
        "spec_sha256",
        "labels",
        "created_at",
        "started_at",
        "finished_at",
        "pause_requested",
        "next_run_at",
    )
    return JobView(
        **{name: getattr(job, name) for name in names + more},
        is_terminal=job.status in TERMINAL,
        error=_problem(job.error),
        queue_position=queue_position,
    )


def view_event(event: JobEvent) -> EventView:
    return EventView(seq=event.seq, at=event.at, type=event.type, stage=event.stage, data=event.data)


def view_attempt(attempt: JobAttempt) -> AttemptView:
    return AttemptView(**{name: getattr(attempt, name) for name in AttemptView.model_fields})


def view_mask(mask: JobMask) -> MaskView:
    return MaskView(**{name: getattr(mask, name) for name in MaskView.model_fields})


def view_artifact(artifact: Artifact) -> ArtifactView:
    return ArtifactView(**{name: getattr(artifact, name) for name in ArtifactView.model_fields})


def _problem(stored: JsonMap | None) -> Problem | None:
    return None if stored is None else Problem.model_validate(stored)
