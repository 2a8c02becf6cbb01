"""What a structure leaves of a model, as far as that can be told before it runs, and what it cannot reach."""

from app.core.errors import ErrorItem, SparsityUnreachable
from app.core.huggingface import SHARD, WEIGHTS_ROLE
from app.core.spec import Structure
from app.core.tables import JsonObject, Model
from app.services.block_plans import BlockPrediction, predict_blocks
from app.services.structure_bounds import find_bounds
from app.services.structure_plans import BYTES_A_PARAMETER, Prediction, predict

# The predicted size is the run's own for these; of a file it is as good as its headers are.
_EXACT = ("parameters", "macs")
# What rounding may cost a prediction: nearer to the smallest size, a run has to tell.
_SLACK = 0.01


def predict_cut(structure: Structure, model: Model) -> Prediction | BlockPrediction | str:
    """Return what is left of a model that has been checked; only a reason where it takes a run to tell."""
    assert model.inspection is not None
    whole = {
        "parameters": model.parameters or 0,
        "macs": model.macs or 0,
        "overhead_bytes": count_overhead(model),
    }
    if structure.cuts_blocks:
        return predict_blocks(structure, model.inspection, **whole)
    return predict(structure, model.inspection, **whole)


def count_weight_bytes(model: Model) -> int:
    """Count the bytes of the files that hold weights: a folder has others beside them."""
    files = [
        file["size_bytes"]
        for role, file in (model.files or {}).items()
        if role == WEIGHTS_ROLE or SHARD.fullmatch(role)
    ]
    return sum(files) if files else model.size_bytes


def count_overhead(model: Model) -> int:
    """Count the bytes of the weights' files that are no parameters: their headers and buffers.

    Files of half precision say nothing of it, and count none.
    """
    return max(count_weight_bytes(model) - BYTES_A_PARAMETER * (model.parameters or 0), 0)


def find_target_faults(structure: Structure, model: Model) -> list[ErrorItem]:
    """Find that nothing may be cut, or a size that is below the smallest model that the structure allows."""
    assert model.inspection is not None
    is_traced = not structure.cuts_blocks and "groups" in model.inspection
    if is_traced and not find_bounds(structure, model.inspection):
        return [_nothing(structure, model.inspection)]
    metric, asked = structure.target.metric, structure.target.value
    found = predict_cut(structure, model) if metric in _EXACT else ""
    if isinstance(found, str) or found.is_reached:
        return []
    smallest = {"parameters": found.parameters, "macs": found.macs}[metric]
    if asked > (1.0 - _SLACK) * smallest:
        return []
    detail = (
        f"even the smallest model that may be left has {metric} of {smallest:,}, found a target of {asked:,g}"
    )
    return [ErrorItem(pointer="/structure/target/value", code=SparsityUnreachable.code, detail=detail)]


def _nothing(structure: Structure, inspection: JsonObject) -> ErrorItem:
    groups = inspection["groups"]
    of_kind = [group for group in groups if group["kind"] in structure.kinds]
    pointer = "/structure/kinds"
    if any(group["why_not"] is None for group in of_kind):
        why, pointer = "rows exclude every group", "/structure/layers"
    elif of_kind:
        why = f"{of_kind[0]['name']} {of_kind[0]['why_not']}"
    else:
        there = {group["kind"] for group in groups if group["why_not"] is None}
        reason = next((layer.get("cut_why_not") for layer in inspection["layers"]), "it has no layers")
        what = ", ".join(sorted(there)) or f"nothing ({reason})"
        why = f"asked for {', '.join(structure.kinds)}, and what can be cut of it is: {what}"
    detail = f"nothing of the model may be cut: {why}"
    return ErrorItem(pointer=pointer, code="nothing_to_prune", detail=detail)
