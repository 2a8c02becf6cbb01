"""The tables of the criteria benchmark: equal counts, chance marked, everything written."""

import csv
import json
from dataclasses import replace

import pytest

from benchmarks.criteria_runs import Run
from benchmarks.criteria_table import WHY_NOT, print_tables, save_runs

DENSE = Run(
    task="Net", pattern="none", allocation="none", sparsity=0.0, criterion="dense", label="dense", seed=0,
    pruned=0, prunable=0, accuracy=0.9, pruning_s=0.0,
)  # fmt: skip


def _run(label: str, accuracy: float, *, seed: int = 0, pruned: int = 50) -> Run:
    return replace(
        DENSE, pattern="unstructured", allocation="global", sparsity=0.5, criterion=label, label=label,
        seed=seed, pruned=pruned, prunable=100, accuracy=accuracy,
    )  # fmt: skip


RUNS = [DENSE, _run("random", 0.2), _run("random", 0.4, seed=1), _run("magnitude", 0.8), _run("grasp", 0.4)]


def test_runs_that_pruned_different_counts_are_not_compared():
    with pytest.raises(AssertionError, match=r"different counts: \[50, 51\]"):
        print_tables([*RUNS, _run("snip", 0.5, pruned=51)])


def test_a_criterion_no_better_than_the_best_seed_is_marked_and_explained(capsys):
    print_tables(RUNS)
    lines = capsys.readouterr().out.splitlines()
    row = {line.split()[0]: line for line in lines if line.strip()}
    assert row["grasp"].endswith("40.00% *")
    assert row["magnitude"].rstrip().endswith("80.00%")
    assert row["random"].endswith("30.00% (20%-40%)")
    assert row["grasp:"].endswith("above the mean of the random seeds, but not above the luckiest")
    assert not any(line.strip().startswith("magnitude: ") for line in lines)


def test_a_criterion_below_the_mean_of_the_seeds_is_explained(capsys):
    print_tables([*RUNS, _run("gradient", 0.1)])
    assert f"gradient: {WHY_NOT['gradient']}" in capsys.readouterr().out


def test_every_run_is_written_as_json_and_as_csv(tmp_path):
    save_runs(RUNS, tmp_path)
    rows = json.loads((tmp_path / "criteria.json").read_text())
    assert [row["label"] for row in rows] == ["dense", "random", "random", "magnitude", "grasp"]
    with (tmp_path / "criteria.csv").open() as file:
        assert [float(row["accuracy"]) for row in csv.DictReader(file)] == [run.accuracy for run in RUNS]
