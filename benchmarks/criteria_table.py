"""Print and write the tables of the criteria benchmark, and say why a criterion does not beat chance."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import mean

from benchmarks.criteria_runs import Run

_INCOMING = (
    "it reads a neuron's incoming weights alone: their norm has a rank correlation of -0.02 with the "
    "first-order damage of taking the neuron out (MiniLM's feed-forward neurons), as chance has"
)
# Said of a criterion that is not above the mean of the random seeds. Figures are of ResNet-20 at 50 %:
# 512 train images, loss and gradient of each by itself.
WHY_NOT = {
    "gradient": "it leaves the weight out: of the largest tenth of all weights, 37 % go among the first half",
    "taylor": "a trained network fits its train data: 1 % of the samples carry 64 % of the sum of |w·g| "
    "(median loss 2e-6), so a handful of samples ranks all weights; meant for small steps while training",
    "fisher": "the gradients of taylor, squared: fewer samples still decide",
    "snip": "the ranking of taylor batch, normalised; meant for a network that is not trained yet",
    "grasp": "a signed score of a gradient that training has made zero: 50 % of the largest tenth of all "
    "weights score below zero and go first, as by chance; meant for a network that is not trained yet",
    "magnitude": _INCOMING,
    "fpgm": _INCOMING,
    "sparsegpt": _INCOMING,
    "activation": "how loud a neuron is says little of what it is worth: rank correlation 0.30 with the "
    "first-order damage of taking it out (MiniLM's feed-forward neurons, 256 train phrases)",
    "synflow": "it looks at no data: the widest paths are not the most used ones; meant for many rounds on "
    "a network that is not trained yet",
}
_LUCKY = "above the mean of the random seeds, but not above the luckiest"

_Group = tuple[str, str, str, float]


def save_runs(runs: Sequence[Run], folder: Path) -> None:
    """Write all runs to criteria.json and criteria.csv in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(run) for run in runs]
    (folder / "criteria.json").write_text(json.dumps(rows, indent=1) + "\n")
    with (folder / "criteria.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Run)])
        writer.writeheader()
        writer.writerows(rows)


def print_tables(runs: Sequence[Run]) -> None:
    """Print the tables of every task that was run."""
    for task in dict.fromkeys(run.task for run in runs):
        print("\n".join(_lines([run for run in runs if run.task == task])), flush=True)


def _lines(runs: Sequence[Run]) -> Iterable[str]:
    dense = next(run for run in runs if run.label == "dense")
    yield f"\n{dense.task}: dense {dense.accuracy:.2%}; accuracy after pruning, before any recovery"
    groups = _groups(runs)
    for pattern in dict.fromkeys(group[1] for group in groups):
        of_pattern = {group: members for group, members in groups.items() if group[1] == pattern}
        yield from _pattern_lines(pattern, of_pattern)


def _groups(runs: Sequence[Run]) -> dict[_Group, list[Run]]:
    groups: dict[_Group, list[Run]] = {}
    for run in runs:
        if run.label != "dense":
            groups.setdefault((run.task, run.pattern, run.allocation, run.sparsity), []).append(run)
    for group, members in groups.items():
        counts = {run.pruned for run in members}
        if len(counts) != 1:
            raise AssertionError(f"{group}: the criteria pruned different counts: {sorted(counts)}")
    return groups


def _pattern_lines(pattern: str, groups: dict[_Group, list[Run]]) -> Iterable[str]:
    heads = [f"{group[3]:.0%} {group[2]}" for group in groups]
    exact = [f"{members[0].pruned}/{members[0].prunable}" for members in groups.values()]
    yield f"\n  {pattern:<24}" + "".join(f"{head:>18}" for head in heads)
    yield f"  {'weights pruned':<24}" + "".join(f"{count:>18}" for count in exact)
    labels = dict.fromkeys(run.label for members in groups.values() for run in members)
    for label in labels:
        cells = [_cell(label, members) for members in groups.values()]
        yield f"  {label:<24}" + "".join(f"{cell:>18}" for cell in cells)
    yield "  * not above every random seed"
    for criterion, is_beaten in sorted(_not_above_chance(groups.values()).items()):
        yield f"    {criterion}: {WHY_NOT.get(criterion, 'not explained') if is_beaten else _LUCKY}"


def _cell(label: str, members: Sequence[Run]) -> str:
    accuracies = [run.accuracy for run in members if run.label == label]
    if not accuracies:
        return "-"
    if label == "random":
        return f"{mean(accuracies):.2%} ({min(accuracies):.0%}-{max(accuracies):.0%})"
    mark = " *" if accuracies[0] <= _chance(members) else "  "
    return f"{accuracies[0]:.2%}{mark}"


def _chance(members: Sequence[Run]) -> float:
    return max(run.accuracy for run in members if run.label == "random")


def _not_above_chance(groups: Iterable[Sequence[Run]]) -> dict[str, bool]:
    """Return the criteria that a random seed reaches somewhere, and whether the mean of the seeds does."""
    found: dict[str, bool] = {}
    for members in groups:
        usual = mean(run.accuracy for run in members if run.label == "random")
        for run in members:
            if run.label != "random" and run.accuracy <= _chance(members):
                found[run.criterion] = found.get(run.criterion, False) or run.accuracy <= usual
    return found
