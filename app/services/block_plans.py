"""Predict what is left of a model when whole blocks go, from what the deep check found of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.core.spec import Structure
from app.core.tables import JsonObject
from app.services.layer_rows import merge_rows
from app.services.structure_plans import BYTES_A_PARAMETER

_Json = Mapping[str, Any]  # Any: what the deep check found, as JSON


@dataclass(frozen=True)
class BlockPrediction:
    """The sizes with as many blocks gone as the target needs, or as may go where these are too few."""

    gone: int
    blocks: int
    parameters: int
    macs: int
    is_reached: bool


def predict_blocks(
    structure: Structure, inspection: JsonObject, *, parameters: int, macs: int, overhead_bytes: int = 0
) -> BlockPrediction | str:
    """Return what is left when the target is met; only a reason where it takes a run to tell.

    `overhead_bytes` are those of the model's file besides its parameters.
    """
    metric = structure.target.metric
    if metric not in ("parameters", "macs", "size_bytes"):
        return f"follows from the target on {metric} when the job runs"
    if "blocks" not in inspection:
        return "the model was checked before its blocks were counted: upload it again for a prediction"
    blocks: Sequence[_Json] = inspection["blocks"]
    kept = [block["name"] for block in blocks if _has_to_stay(structure, inspection, block)]
    free = [block for block in blocks if block["name"] not in kept]
    most = _count_removable(structure, blocks, kept)
    if len({(block["parameters"], block["macs"]) for block in free}) > 1 or _goes_evenly(structure, free):
        return "the blocks that may go differ: which of them do is decided when the job runs"
    for gone in range(most + 1):
        found = BlockPrediction(
            gone=gone,
            blocks=len(blocks),
            parameters=parameters - gone * (free[0]["parameters"] if free else 0),
            macs=macs - gone * (free[0]["macs"] if free else 0),
            is_reached=True,
        )
        size_bytes = BYTES_A_PARAMETER * found.parameters + overhead_bytes
        size = {"parameters": found.parameters, "macs": found.macs, "size_bytes": size_bytes}[metric]
        if size <= structure.target.value:
            return found
    return replace(found, is_reached=False)


def _has_to_stay(structure: Structure, inspection: JsonObject, block: _Json) -> bool:
    if block["why_not"] is not None:
        return True
    within = [one for one in inspection["layers"] if one["name"].startswith(f"{block['name']}.")]
    return any(merge_rows(structure.layers, one).is_excluded for one in within if one["prunable"])


def _count_removable(structure: Structure, blocks: Sequence[_Json], kept: Sequence[str]) -> int:
    """Count how many may go: of each stack the largest share, and one of its blocks stays."""
    free = Counter(block["stack"] for block in blocks if block["name"] not in kept)
    whole = Counter(block["stack"] for block in blocks)
    return sum(
        min(round(structure.max_fraction * count), count if whole[stack] > count else count - 1)
        for stack, count in free.items()
    )


def _goes_evenly(structure: Structure, free: Sequence[_Json]) -> bool:
    return structure.ranking == "uniform" and len({block["stack"] for block in free}) > 1
