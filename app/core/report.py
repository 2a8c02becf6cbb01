"""The report of a finished job, schema 1.0: every number is counted on the exported file."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from app.core.spec import MetricName
from app.core.states import GateOutcome

REPORT_SCHEMA = "1.0"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BeforeAfter(_Frozen):
    before: int
    after: int


class Sparsity(_Frozen):
    """Zeros over the masked tensors, over all prunable weights, over all parameters."""

    masked: float
    prunable: float
    total: float


class SizeBytes(_Frozen):
    """`artifact` is the exported file, `compressed` the same file after zlib level 6."""

    dense_before: int
    artifact: int
    compressed_before: int
    compressed: int


class Macs(_Frozen):
    """Multiply-accumulates of one sample; `effective` leaves out products with a zero weight."""

    before: int
    after: int
    effective: int


class MemoryBytes(_Frozen):
    """Weights, and the most bytes of tensors alive at once in a forward pass (weights included)."""

    weights_before: int
    weights_after: int
    peak_inference_before: int
    peak_inference_after: int


Interval = tuple[float, float]


class Flips(_Frozen):
    """Samples that the dense model had right and the final one has wrong, and the other way round."""

    became_wrong: int
    became_right: int


class Metric(_Frozen):
    """Dense against final on the same samples.

    `drop` = baseline - final, whatever direction is better. `method` says how `drop_ci95` was made,
    `average` which F1 it is. `pruned` is null for a control, `p_value` (McNemar) and `flips` for what is no
    accuracy.
    """

    name: MetricName
    split: str
    n: int
    higher_is_better: bool
    average: Literal["binary", "macro"] | None
    baseline: float
    baseline_ci95: Interval
    pruned: float | None
    final: float
    final_ci95: Interval
    drop: float
    drop_ci95: Interval
    method: str
    p_value: float | None
    flips: Flips | None


class Control(_Frozen):
    """Another model that the fine-tune made to compare with, measured against the dense one too."""

    name: str
    metrics: tuple[Metric, ...]


class ClassRow(_Frozen):
    """The recall of one class, over its `n` samples of the test split."""

    label: int
    n: int
    baseline: float
    final: float
    drop: float
    drop_ci95: Interval


class WorstClass(_Frozen):
    """The class that loses most; of several, the one of the lowest label."""

    label: int
    n: int
    drop: float
    drop_ci95: Interval


class Milliseconds(_Frozen):
    p50: float
    p95: float


class LatencyResult(_Frozen):
    """Dense and pruned measured alternately in one process; `why` explains the ratio."""

    runtime: str
    device: str
    threads: int
    batch_size: int
    repeats: int
    baseline_ms: Milliseconds
    final_ms: Milliseconds
    speedup: float
    speedup_ci95: Interval
    why: str


class Summary(_Frozen):
    parameters: BeforeAfter
    nonzero: BeforeAfter
    sparsity: Sparsity
    size_bytes: SizeBytes
    macs: Macs
    memory_bytes: MemoryBytes
    metrics: tuple[Metric, ...]
    worst_class: WorstClass | None
    latency: tuple[LatencyResult, ...]


class LayerReport(_Frozen):
    """A parameter by its `name` in the uploaded model, and in the artifact; none where its block is gone."""

    name: str
    name_after: str | None = None
    type: str
    group: str | None
    shape_before: tuple[int, ...]
    shape_after: tuple[int, ...]
    parameters_before: int
    parameters_after: int
    nonzero: int
    sparsity: float
    macs_before: int
    macs_after: int
    prunable: bool
    why_not: str | None = None
    sensitivity: float | None = None


class HistoryRow(_Frozen):
    """One pruning step: what was asked at that point, what was reached, what it measured."""

    round: int
    step: int
    target: float
    sparsity: float
    metrics: dict[str, float]
    note: str | None = None


class FinetuneReport(_Frozen):
    """How many optimizer steps were done of those planned, and which one's weights came out.

    `best_step` is that of the best evaluation on the validation split, null where the last weights count.
    """

    steps: int
    planned_steps: int
    best_step: int | None


class StructureGroup(_Frozen):
    """Channels, neurons or heads that are cut out one by one, each from all `tensors` at once.

    They are the outputs of the layers `made_by`; of whole blocks, these are all in them, and `gone` names
    those that went.
    """

    name: str
    kind: str
    tensors: tuple[str, ...]
    made_by: tuple[str, ...]
    units_before: int
    units_after: int
    why_not: str | None
    gone: tuple[str, ...] = ()


class StructureProbe(_Frozen):
    """What the model came to with so many units cut out, in the target's unit."""

    removed: int
    value: float


class StructureReport(_Frozen):
    """What was cut out of the model, and the sizes that were tried, one list a round.

    The statistics of BatchNorm were measured anew over `batchnorm_samples`, none where it has no such layer
    or the job no samples to train on. Each size tried was trained for `probe_steps` before it was judged.
    """

    metric: str
    target: float
    before: float
    after: float
    batchnorm_samples: int
    probe_steps: int = 0
    groups: tuple[StructureGroup, ...]
    probes: tuple[tuple[StructureProbe, ...], ...]


class GateResult(_Frozen):
    metric: str
    op: str
    value: float
    level: str
    measured: float | None
    outcome: GateOutcome


class ReportArtifact(_Frozen):
    name: str
    kind: str
    media_type: str
    sha256: str
    size_bytes: int
    loads_in_clean_process: bool


class ReportJob(_Frozen):
    id: str
    spec_sha256: str
    resolved_spec: dict[str, JsonValue]


class ReportDataset(_Frozen):
    sha256: dict[str, str]
    splits: dict[str, int]


class ReportModel(_Frozen):
    sha256: str
    format: str
    architecture: dict[str, JsonValue]


class ReportInputs(_Frozen):
    model: ReportModel
    dataset: ReportDataset | None


class Environment(_Frozen):
    """`determinism` says what a rerun gives: `bitwise` on CPU, `tolerance` elsewhere."""

    versions: dict[str, str]
    device: str
    threads: int
    determinism: str


class Report(_Frozen):
    report_schema: str = REPORT_SCHEMA
    job: ReportJob
    inputs: ReportInputs
    environment: Environment
    summary: Summary
    classes: tuple[ClassRow, ...]
    controls: tuple[Control, ...]
    structure: StructureReport | None = None
    finetune: FinetuneReport | None = None
    layers: tuple[LayerReport, ...]
    history: tuple[HistoryRow, ...]
    gates: tuple[GateResult, ...]
    artifacts: tuple[ReportArtifact, ...]
    warnings: tuple[str, ...]
