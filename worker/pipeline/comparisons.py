"""Compare the models of a job by the records that its stages kept: metrics, classes, controls."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.core.report import ClassRow, Control, Metric, WorstClass
from app.core.states import Stage
from worker.measure.classes import measure_classes
from worker.measure.comparison import Pair, compare
from worker.measure.metrics import Answers
from worker.pipeline.folder import StageFolder
from worker.pipeline.job import Job
from worker.pipeline.predictions import find_metrics, has_records, read_records, take_answers

_SPLIT = "test"
# The fine-tune keeps the records of each control that it made, as control-<name>.safetensors.
_CONTROL_PREFIX, _CONTROL_SUFFIX = "control-", ".safetensors"


@dataclass(frozen=True)
class Comparisons:
    """What the report says of the answers; all empty without a dataset, `classes` where there are none."""

    metrics: tuple[Metric, ...] = ()
    controls: tuple[Control, ...] = ()
    classes: tuple[ClassRow, ...] = ()
    worst_class: WorstClass | None = None
    warnings: tuple[str, ...] = ()


def compare_answers(job: Job) -> Comparisons:
    """Compare the final model and every control with the dense one, on the same samples."""
    if job.task is None:
        return Comparisons()
    kinds = find_metrics(job)
    baseline, final = (
        take_answers(job, read_records(job.folder(stage))) for stage in (Stage.BASELINE, Stage.EVALUATE)
    )
    pruned = _read_pruned(job)
    metrics = compare(kinds, Pair(baseline, final), split=_SPLIT, pruned=pruned)
    controls = tuple(
        Control(name=name, metrics=compare(kinds, Pair(baseline, answers), split=_SPLIT))
        for name, answers in _read_controls(job, job.folder(Stage.FINETUNE))
    )
    if "accuracy" not in job.task.metrics:
        return Comparisons(metrics, controls, warnings=_warn_of_no_width(metrics))
    damage = measure_classes(Pair(baseline, final))
    warnings = [] if damage.warning is None else [damage.warning]
    warnings += _warn_of_no_width(metrics)
    return Comparisons(metrics, controls, damage.rows, damage.worst, tuple(warnings))


def _warn_of_no_width(metrics: Sequence[Metric]) -> tuple[str, ...]:
    """Say where a bootstrap looks like certainty: few samples, or no changes, leave it nothing to draw."""
    names = [one.name for one in metrics if one.flips is None and one.drop_ci95[0] == one.drop_ci95[1]]
    if not names:
        return ()
    return (
        f"all draws of the bootstrap are alike for {', '.join(names)}: such an interval of the drop has no "
        "width, and says nothing of how sure the drop is",
    )


def _read_pruned(job: Job) -> Answers | None:
    """Return the answers before any recovery; None where it is the training that finds what to prune."""
    folder = job.folder(Stage.PRUNE)
    return take_answers(job, read_records(folder)) if has_records(folder) else None


def _read_controls(job: Job, folder: StageFolder) -> Iterator[tuple[str, Answers]]:
    for path in sorted(folder.path.glob(f"{_CONTROL_PREFIX}*{_CONTROL_SUFFIX}")):
        name = path.name.removeprefix(_CONTROL_PREFIX).removesuffix(_CONTROL_SUFFIX)
        yield name, take_answers(job, folder.read_tensors(path.name))
