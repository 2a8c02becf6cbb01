"""The plan of a job before it runs: what is certain now, what is estimated, and why the rest is open."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from app.core.spec import JobSpec
from app.core.states import ModelStatus
from app.core.tables import Dataset, JsonObject
from app.services.layer_rows import Wish, merge_rows
from app.services.specs import ResolvedSpec

# A training step costs about three forward passes: forward, gradients of activations, gradients of weights.
_FORWARDS_A_TRAINING_STEP = 3
# Baseline, after pruning, final.
_EVALUATIONS = 3


def make_plan(resolved: ResolvedSpec) -> JsonObject | None:
    """Say what the job will do to the model; None while the model is still being validated."""
    model, spec = resolved.model, resolved.spec
    if model.status != ModelStatus.READY or model.inspection is None:
        return None
    rows = [(layer, merge_rows(spec.recipe.layers, layer)) for layer in model.inspection["layers"]]
    weights = _count_weights(spec, rows)
    return {
        "layers": [_plan_layer(spec, layer, wish) for layer, wish in rows],
        "weights": weights,
        "parameters": _plan_parameters(spec, model.parameters),
        "macs": _plan_macs(spec, model.macs or 0),
        "size_bytes": _plan_bytes(spec, model.size_bytes),
        "time": _estimate_time(spec, resolved.dataset, forward_ms=model.inspection["forward_ms"]),
    }


Row = tuple[dict[str, Any], Wish]  # Any: a layer of the deep check, as JSON


def _count_weights(spec: JobSpec, rows: list[Row]) -> JsonObject:
    """Count exactly what is kept, when the target is a sparsity and every weight is chosen by itself."""
    chosen = [layer["parameters"] for layer, wish in rows if layer["prunable"] and not wish.is_excluded]
    prunable = sum(chosen)
    if spec.structure is not None and spec.recipe.target.value > 0.0:
        return {"prunable": prunable, "kept": None, "why": "depends on the units that are cut out before"}
    if spec.recipe.target.metric != "sparsity":
        return {"prunable": prunable, "kept": None, "why": f"the target is on {spec.recipe.target.metric}"}
    if spec.recipe.pattern.name != "unstructured":
        why = (
            f"{spec.recipe.pattern.name} prunes whole groups: the count is the nearest that groups can reach"
        )
        return {"prunable": prunable, "kept": None, "why": why}
    return {"prunable": prunable, "kept": prunable - round(spec.recipe.target.value * prunable), "why": None}


def _plan_layer(spec: JobSpec, layer: dict[str, Any], wish: Wish) -> JsonObject:  # Any: as in Row
    sparsity, why = _layer_sparsity(spec, layer, wish)
    return {"name": layer["name"], "parameters": layer["parameters"], "sparsity": sparsity, "why": why}


def _layer_sparsity(
    spec: JobSpec,
    layer: dict[str, Any],  # Any: as in Row
    wish: Wish,
) -> tuple[float | None, str | None]:
    if not layer["prunable"]:
        return 0.0, f"not pruned: {layer['why_not']}"
    if wish.is_excluded:
        return 0.0, "excluded by the recipe"
    if wish.fixed_sparsity is not None:
        return wish.fixed_sparsity, "fixed by the recipe"
    if spec.recipe.target.metric != "sparsity":
        return None, f"follows from the target on {spec.recipe.target.metric}"
    is_bounded = any(row.set.exclude is None for row in spec.recipe.layers)
    if spec.recipe.allocation.name == "uniform" and not is_bounded:
        return spec.recipe.target.value, None
    return None, f"{spec.recipe.allocation.name} decides it from the weights when the job runs"


def _is_open(spec: JobSpec) -> bool:
    """Tell whether sizes follow only when the job runs."""
    return spec.structure is not None or spec.recipe.pattern.name != "unstructured"


def _say_open(spec: JobSpec, metric: str, before: int) -> JsonObject:
    if spec.structure is not None and spec.structure.target.metric == metric:
        limit = spec.structure.target.value
        return {"before": before, "after": None, "why": f"at most {limit:g}, as the structure's target says"}
    if spec.structure is not None:
        return {"before": before, "after": None, "why": "depends on the units that are cut out"}
    return {"before": before, "after": None, "why": "depends on the groups that are pruned"}


def _plan_parameters(spec: JobSpec, parameters: int) -> JsonObject:
    if _is_open(spec):
        return _say_open(spec, "parameters", parameters)
    return {"before": parameters, "after": parameters, "why": "pruned weights become zeros; none is removed"}


def _plan_macs(spec: JobSpec, macs: int) -> JsonObject:
    if _is_open(spec):
        return _say_open(spec, "macs", macs)
    return {"before": macs, "after": macs, "why": "dense kernels multiply by zeros too"}


def _plan_bytes(spec: JobSpec, size_bytes: int) -> JsonObject:
    if _is_open(spec):
        return _say_open(spec, "size_bytes", size_bytes)
    why = "safetensors stores zeros as it stores other numbers; compression makes use of them"
    return {"before": size_bytes, "after": size_bytes, "why": why}


def _estimate_time(spec: JobSpec, dataset: Dataset | None, *, forward_ms: float) -> JsonObject:
    """Estimate seconds from the forward pass that the deep check measured; loading and export come on top."""
    samples = 0.0
    if dataset is not None and any(split["n"] is None for split in dataset.splits.values()):
        why = "the number of samples is not known before a worker has read the dataset"
        return {"seconds": None, "basis": why}
    if dataset is not None:
        samples += _EVALUATIONS * dataset.splits["test"]["n"]
        if spec.finetune is not None:
            samples += _trained_samples(spec, dataset.splits["train"]["n"])
    if spec.evaluation.latency is not None:
        samples += 2 * spec.evaluation.latency.repeats * spec.evaluation.latency.batch_size
    return {
        "seconds": round(samples * forward_ms / 1000.0, 3),
        "basis": f"estimated: {samples:.0f} forward passes of {forward_ms:.4f} ms, as measured when "
        "the model was checked; a training step counts as three",
    }


def _trained_samples(spec: JobSpec, train_n: int) -> float:
    finetune = spec.finetune
    assert finetune is not None
    forwards = _FORWARDS_A_TRAINING_STEP + (finetune.distillation is not None)
    one = (
        finetune.max_steps * finetune.batch_size * finetune.accumulate
        if finetune.max_steps is not None
        else (finetune.epochs or 0) * train_n
    )
    return float(forwards * one) * _count_trainings(spec)


def _count_trainings(spec: JobSpec) -> float:
    """Count the trainings that a schedule of rounds makes out of one, in parts where they start later."""
    params = spec.recipe.schedule.params
    match spec.recipe.schedule.name:
        case "iterative":
            return float(_number(params, "rounds"))
        case "lottery_ticket":
            later = 1.0 - _number(params, "rewind_fraction")
            controls = params.get("controls")
            named = controls if isinstance(controls, list) else []
            # A mask by chance is trained as the ticket is, weights drawn anew from the start.
            return (
                1.0
                + later * (_number(params, "rounds") + named.count("random_mask"))
                + named.count("random_reinit")
            )
        case _:
            return 1.0


def _number(params: Mapping[str, JsonValue], name: str) -> float:
    value = params.get(name)
    # A resolved spec has every default, checked against the catalog.
    return float(value) if isinstance(value, int | float) else 0.0
