"""`make bench-blocks`: one, two and three of MiniLM-L6's six layers left out, by each importance, untrained.

Accuracy on the dev split of SST-2 by what decides which layers go, beside the best, the middle and the worst
of all choices. In three rounds the layers that are left are scored anew after each that goes.
"""

import argparse
import itertools
import sys
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from torch import nn

from benchmarks.data_folder import NoBenchmarkData, find_data_folder
from benchmarks.minilm import minilm_task
from benchmarks.task import Task
from worker.pruning.removal import Removal, removed, shrink
from worker.pruning.removal.depth import Depth

Json = dict[str, Any]  # Any: JSON
Gone = tuple[int, ...]
STACK: Final = "bert.encoder.layer"
_LAYERS: Final = 6
_COUNTS: Final = (1, 2, 3)
_IMPORTANCES: Final[tuple[tuple[str, Json], ...]] = (
    ("block_loss", {}),
    ("block_influence", {}),
    ("taylor", {"form": "per_sample"}),
    ("taylor", {"form": "batch"}),
    ("fisher", {}),
    ("magnitude", {"p": 2.0}),
)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns 2 without the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=256, help="train phrases to calibrate on")
    samples = parser.parse_args(arguments).samples
    try:
        task = minilm_task(find_data_folder(), samples=samples)
    except NoBenchmarkData as error:
        print(f"bench-blocks: {error}", file=sys.stderr)
        return 2
    model = task.load()
    print(f"MiniLM-L6, SST-2 dev: {task.accuracy(model):.2%} whole; without layers, before any training\n")
    print("| importance | rounds | " + " | ".join(f"{count} of {_LAYERS} gone" for count in _COUNTS) + " |")
    print("| --- " * (len(_COUNTS) + 2) + "|")
    judged = {gone: _judge(task, model, gone) for count in _COUNTS for gone in _choose(count)}
    for name, params in _IMPORTANCES:
        for rounds in (1, max(_COUNTS)):
            given = {"criterion": {"name": name, "params": params}, "aggregation": "sum", "rounds": rounds}
            cells = [_show(gone, judged) for gone in (_find_gone(task, model, given, n) for n in _COUNTS)]
            label = " ".join([name, *map(str, params.values())])
            print(f"| {label} | {rounds} | {' | '.join(cells)} |", flush=True)
    ranked = [sorted(_choose(count), key=judged.__getitem__, reverse=True) for count in _COUNTS]
    for label, place in (("best choice", 0.0), ("middle", 0.5), ("worst", 1.0)):
        cells = [_show(choices[round(place * (len(choices) - 1))], judged) for choices in ranked]
        print(f"| {label} of all | | {' | '.join(cells)} |")
    return 0


def _choose(count: int) -> list[Gone]:
    return list(itertools.combinations(range(_LAYERS), count))


def _judge(task: Task, model: nn.Module, gone: Gone) -> float:
    kept = tuple(number for number in range(_LAYERS) if number not in gone)
    with removed(model, Removal({}, {}, (Depth(STACK, kept, _LAYERS),))):
        return task.accuracy(model)


def _find_gone(task: Task, model: nn.Module, given: Json, count: int) -> Gone:
    """Return which layers go, when so many have to."""
    cut = deepcopy(model)
    target = _count(cut) - count * _count(cut.get_submodule(f"{STACK}.0"))
    structure = {
        **given,
        "kinds": ["block"],
        "target": {"metric": "parameters", "value": target},
        "rounds": min(given["rounds"], count),
    }
    (depth,) = shrink(cut, structure, task.calibration).removal.depths
    return depth.gone


def _show(gone: Gone, judged: Mapping[Gone, float]) -> str:
    return f"{judged[gone]:.2%} ({', '.join(map(str, gone))})"


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    sys.exit(main())
