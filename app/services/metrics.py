"""Which metrics a job measures: all that the dataset's task has, or those that the spec names of them."""

from typing import get_args

from app.core.catalog import Catalog
from app.core.errors import ErrorItem
from app.core.spec import JobSpec, MetricName
from app.core.tables import Dataset

_WORST_CLASS = "worst_class_drop"
# What only answers to a dataset can decide.
GATES_ON_ANSWERS = frozenset(
    {_WORST_CLASS} | {f"{name}{suffix}" for name in get_args(MetricName) for suffix in ("", "_drop")}
)


def resolve_metrics(spec: JobSpec, catalog: Catalog, dataset: Dataset) -> tuple[JobSpec, list[ErrorItem]]:
    """Name all metrics of the task where none is named; find those that it does not have.

    Gates and early stopping name some too.
    """
    known = next((task.metrics for task in catalog.tasks if task.name == dataset.task), ())
    metrics = spec.evaluation.metrics or known
    items = [
        ErrorItem(
            pointer=f"/evaluation/metrics/{i}",
            code="unknown_metric",
            detail=f"{dataset.task} is not measured by {name}; there are: {', '.join(known)}",
        )
        for i, name in enumerate(metrics)
        if name not in known
    ]
    items += [
        ErrorItem(
            pointer=f"/gates/{i}/metric",
            code="metric_not_measured",
            detail=f"a gate on {gate.metric} is never evaluated: the job measures {', '.join(metrics)}",
        )
        for i, gate in enumerate(spec.gates)
        if gate.metric in GATES_ON_ANSWERS and not _is_measured(gate.metric, metrics, known)
    ]
    stopping = spec.finetune.early_stopping if spec.finetune else None
    if stopping is not None and stopping.metric is not None and stopping.metric not in known:
        detail = f"{dataset.task} is not measured by {stopping.metric}; there are: {', '.join(known)}"
        items.append(
            ErrorItem(pointer="/finetune/early_stopping/metric", code="unknown_metric", detail=detail)
        )
    evaluation = spec.evaluation.model_copy(update={"metrics": metrics})
    return spec.model_copy(update={"evaluation": evaluation}), items


def _is_measured(gate_metric: str, metrics: tuple[str, ...], known: tuple[str, ...]) -> bool:
    if gate_metric == _WORST_CLASS:  # of every classification, whatever else is measured
        return "accuracy" in known
    return gate_metric.removesuffix("_drop") in metrics
