"""The plan of a job before it runs: what is certain now, what is estimated, and why the rest is open."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from app.core.spec import JobSpec, Structure
from app.core.states import ModelStatus
from app.core.tables import Dataset, JsonObject, Model
from app.services.block_plans import BlockPrediction
from app.services.cut_plans import count_overhead, count_weight_bytes, predict_cut
from app.services.layer_rows import Wish, merge_rows
from app.services.specs import ResolvedSpec
from app.services.structure_plans import BYTES_A_PARAMETER, Prediction

# A training step costs about three forward passes: forward, gradients of activations, gradients of weights.
_FORWARDS_A_TRAINING_STEP = 3
# Baseline, after pruning, final.
_EVALUATIONS = 3
_OPEN = "depends on the groups that are pruned"


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
        **_plan_sizes(resolved),
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


def _plan_sizes(resolved: ResolvedSpec) -> JsonObject:
    """Say what parameters, products and bytes come to; with a structure, by equal shares of every group."""
    spec, model = resolved.spec, resolved.model
    parameters, macs = model.parameters or 0, model.macs or 0
    if spec.structure is None:
        return {
            "parameters": _plan_parameters(spec, parameters),
            "macs": _plan_macs(spec, macs),
            "size_bytes": _plan_bytes(spec, model),
        }
    before = {"parameters": parameters, "macs": macs, "size_bytes": count_weight_bytes(model)}
    after, why = _predict_cut(spec.structure, model)
    return {
        name: {"before": value, "after": None if after is None else after[name], "why": why}
        for name, value in before.items()
    }


def _predict_cut(structure: Structure, model: Model) -> tuple[dict[str, int] | None, str]:
    """Return what the sizes come to after the cut, and how that is known or why not."""
    found = predict_cut(structure, model)
    if isinstance(found, str):
        return None, found
    why = _tell_blocks(found) if isinstance(found, BlockPrediction) else _tell_shares(found, structure)
    size_bytes = BYTES_A_PARAMETER * found.parameters + count_overhead(model)
    return {"parameters": found.parameters, "macs": found.macs, "size_bytes": size_bytes}, why


def _tell_blocks(found: BlockPrediction) -> str:
    why = f"{found.gone} of {found.blocks} blocks go, all of one size; which, the criterion decides"
    return why if found.is_reached else f"{why}; no more may go, so the target will not be reached"


def _tell_shares(found: Prediction, structure: Structure) -> str:
    if not found.is_reached:
        return "estimated: as if every group lost all that may go; the target will not be reached"
    is_bounded = structure.multiple_of > 1 or any(row.set.exclude is None for row in structure.layers)
    within = ", within what rows and multiple_of allow" if is_bounded else ""
    return (
        f"estimated: as if every group lost {found.fraction:.1%} of its units{within}; the ranking decides "
        "which go, so that only the target itself is certain"
    )


def _plan_parameters(spec: JobSpec, parameters: int) -> JsonObject:
    if spec.recipe.pattern.name != "unstructured":
        return {"before": parameters, "after": None, "why": _OPEN}
    return {"before": parameters, "after": parameters, "why": "pruned weights become zeros; none is removed"}


def _plan_macs(spec: JobSpec, macs: int) -> JsonObject:
    if spec.recipe.pattern.name != "unstructured":
        return {"before": macs, "after": None, "why": _OPEN}
    return {"before": macs, "after": macs, "why": "dense kernels multiply by zeros too"}


def _plan_bytes(spec: JobSpec, model: Model) -> JsonObject:
    before = count_weight_bytes(model)
    if spec.recipe.pattern.name != "unstructured":
        return {"before": before, "after": None, "why": _OPEN}
    why = "safetensors stores zeros as it stores other numbers; compression makes use of them"
    written = BYTES_A_PARAMETER * (model.parameters or 0)
    if before < written:
        return {"before": before, "after": written, "why": f"{why}; the weights are written in float32"}
    return {"before": before, "after": before, "why": why}


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
