"""Compare two models by their records of the same samples: each metric, its drop, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from app.core.report import Flips, Metric
from worker.measure.intervals import (
    RESAMPLE_DRAWS,
    compute_drop_interval,
    compute_mcnemar_p,
    compute_resampled_interval,
    compute_wilson_interval,
    resample,
)
from worker.measure.metrics import Answers, Counts, Floats, MetricKind, measure

Records = Mapping[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """The answers of the dense and of another model to the same samples, in the same order."""

    baseline: Answers
    final: Answers

    def __len__(self) -> int:
        return len(self.final)


def read_answers(records: Records, *, classes: int) -> Answers:
    """Take records, as a stage kept them, into arrays."""
    return Answers({name: tensor.numpy() for name, tensor in records.items()}, classes)


def compare(
    kinds: Sequence[MetricKind], pair: Pair, *, split: str, pruned: Answers | None = None
) -> tuple[Metric, ...]:
    """Return each metric of a pair, in the order asked for; `pruned` is the model before any recovery."""
    drawn = _draw([kind for kind in kinds if kind.name != "accuracy"], pair)
    return tuple(
        _compare_accuracy(kind, pair, split=split, pruned=pruned)
        if kind.name == "accuracy"
        else _compare_draws(kind, pair, drawn[kind.name], split=split, pruned=pruned)
        for kind in kinds
    )


def _compare_accuracy(kind: MetricKind, pair: Pair, *, split: str, pruned: Answers | None) -> Metric:
    before, after = (
        answers.integers("prediction") == answers.integers("truth") for answers in (pair.baseline, pair.final)
    )
    n, hits_before, hits_after = len(pair), int(before.sum()), int(after.sum())
    flips = Flips(became_wrong=int((before & ~after).sum()), became_right=int((~before & after).sum()))
    return Metric(
        name=kind.name,
        split=split,
        n=n,
        higher_is_better=kind.higher_is_better,
        average=None,
        baseline=hits_before / n,
        baseline_ci95=compute_wilson_interval(hits_before, n),
        pruned=None if pruned is None else measure(kind, pruned),
        final=hits_after / n,
        final_ci95=compute_wilson_interval(hits_after, n),
        # Of the counts: a difference of two quotients is a hair beside the 0.02 that a gate may ask for.
        drop=(hits_before - hits_after) / n,
        drop_ci95=compute_drop_interval(flips.became_wrong, flips.became_right, n),
        method="adjusted Wald of Bonett and Price 2012, paired",
        p_value=compute_mcnemar_p(flips.became_wrong, flips.became_right),
        flips=flips,
    )


def _compare_draws(
    kind: MetricKind, pair: Pair, draws: tuple[Floats, Floats], *, split: str, pruned: Answers | None
) -> Metric:
    baseline, final = measure(kind, pair.baseline), measure(kind, pair.final)
    drop = baseline - final
    return Metric(
        name=kind.name,
        split=split,
        n=len(pair),
        higher_is_better=kind.higher_is_better,
        average=_name_average(kind, pair),
        baseline=baseline,
        baseline_ci95=compute_resampled_interval(draws[0], around=baseline),
        pruned=None if pruned is None else measure(kind, pruned),
        final=final,
        final_ci95=compute_resampled_interval(draws[1], around=final),
        drop=drop,
        drop_ci95=compute_resampled_interval(draws[0] - draws[1], around=drop),
        method=f"paired bootstrap, {RESAMPLE_DRAWS} draws",
        p_value=None,
        flips=None,
    )


def _name_average(kind: MetricKind, pair: Pair) -> Literal["binary", "macro"] | None:
    if kind.name != "f1":
        return None
    return "binary" if pair.final.classes == 2 else "macro"


def _draw(kinds: Sequence[MetricKind], pair: Pair) -> dict[str, tuple[Floats, Floats]]:
    """Return the draws of each metric for both models; a draw takes the same samples for both."""
    parts: dict[str, list[tuple[Floats, Floats]]] = {kind.name: [] for kind in kinds}
    if not kinds:
        return {}
    cell_of, cells = _group_same_answers(pair)
    for weights in resample(cell_of, len(cells)):
        for kind in kinds:
            of_both = (kind.value(_take(answers, cells), weights) for answers in (pair.baseline, pair.final))
            before, after = of_both
            parts[kind.name].append((before, after))
    return {
        name: (np.concatenate([one[0] for one in of_kind]), np.concatenate([one[1] for one in of_kind]))
        for name, of_kind in parts.items()
    }


def _group_same_answers(pair: Pair) -> tuple[Counts, Counts]:
    """Return the cell of each sample [n], and one sample of each cell [cells].

    Samples of one truth with the same two answers are one cell: of ten classes there are at most a
    thousand, however large the split is.
    """
    columns = [
        array for answers in (pair.baseline, pair.final) for _, array in sorted(answers.arrays.items())
    ]
    if not all(array.ndim == 1 and np.issubdtype(array.dtype, np.integer) for array in columns):
        every = np.arange(len(pair))
        return every, every
    _, first, cell_of = np.unique(np.stack(columns, axis=1), axis=0, return_index=True, return_inverse=True)
    return cell_of.reshape(-1), first


def _take(answers: Answers, cells: Counts) -> Answers:
    return Answers({name: array[cells] for name, array in answers.arrays.items()}, answers.classes)
