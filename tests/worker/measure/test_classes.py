"""What pruning does to each class, and when it is worth a warning."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.measure.classes import MOST_ROWS, measure_classes
from worker.measure.comparison import Pair, read_answers


def make_pair(of_classes: list[tuple[int, int, int]]) -> Pair:
    """Classes of (samples, right before, right after); who is right after was right before where possible."""
    truth = np.repeat(np.arange(len(of_classes)), [n for n, _, _ in of_classes])
    wrong = (truth + 1) % max(2, len(of_classes))
    models = []
    for hits in ([row[1] for row in of_classes], [row[2] for row in of_classes]):
        is_right = np.concatenate([np.arange(of_classes[i][0]) < hits[i] for i in range(len(of_classes))])
        records = {"prediction": np.where(is_right, truth, wrong), "truth": truth}
        tensors = {name: torch.from_numpy(array) for name, array in records.items()}
        models.append(read_answers(tensors, classes=len(of_classes)))
    return Pair(*models)


CLASS = st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n)))


@settings(deadline=None)
@given(st.lists(CLASS, min_size=1, max_size=8))
def test_the_classes_add_up_to_all_samples(of_classes):
    pair = make_pair(of_classes)
    damage = measure_classes(pair)
    n = sum(row.n for row in damage.rows)
    overall = (sum(row[1] for row in of_classes) - sum(row[2] for row in of_classes)) / n
    assert n == len(pair)
    assert abs(sum(row.drop * row.n for row in damage.rows) / n - overall) < 1e-9
    assert [row.label for row in damage.rows] == list(range(len(of_classes)))
    for row in damage.rows:
        assert row.drop_ci95[0] <= row.drop <= row.drop_ci95[1]
        assert (row.baseline, row.final) == tuple(hits / row.n for hits in of_classes[row.label][1:])
    assert damage.worst.drop == max(row.drop for row in damage.rows)


def test_of_classes_that_lose_alike_the_lower_label_is_the_worst():
    assert measure_classes(make_pair([(10, 9, 9), (10, 9, 4), (20, 18, 8)])).worst.label == 1


def test_a_class_that_pays_for_all_is_warned_of():
    damage = measure_classes(make_pair([(200, 190, 189), (200, 190, 190), (200, 190, 188), (40, 38, 8)]))
    assert damage.worst.label == 3
    assert damage.warning is not None
    assert damage.warning.startswith("class 3 loses 75.00% of its 40 test samples")
    assert "all classes together 5.16%" in damage.warning


def test_damage_spread_evenly_is_no_warning():
    assert measure_classes(make_pair([(200, 190, 150)] * 4)).warning is None


def test_the_worst_of_many_is_not_warned_of_for_what_chance_does():
    # One class of a thousand lost 5 of 5, which a fair coin does once in 16 throws of five.
    assert measure_classes(make_pair([(5, 5, 5)] * 999 + [(5, 5, 0)])).warning is None


def test_a_class_of_one_sample_is_no_warning():
    assert measure_classes(make_pair([(500, 490, 489), (1, 1, 0)])).warning is None


def test_at_most_a_thousand_classes_are_listed_and_those_are_the_worst():
    of_classes = [(4, 4, 4 if label % 3 == 0 else 3) for label in range(MOST_ROWS + 300)]
    rows = measure_classes(make_pair(of_classes)).rows
    assert len(rows) == MOST_ROWS
    labels = [row.label for row in rows]
    assert labels == sorted(labels)
    losers = {label for label in range(MOST_ROWS + 300) if label % 3}
    assert losers < set(labels)
    spared = sorted(set(labels) - losers)
    assert spared == [label for label in range(MOST_ROWS + 300) if label % 3 == 0][: len(spared)]


def test_classes_without_a_sample_are_not_listed():
    damage = measure_classes(make_pair([(0, 0, 0), (10, 9, 8), (0, 0, 0)]))
    assert [row.label for row in damage.rows] == [1]
