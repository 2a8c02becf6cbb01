"""What pruning does to each class: the recall of the dense and of the final model on the same samples."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.core.report import ClassRow, WorstClass
from worker.measure.comparison import Pair
from worker.measure.intervals import compute_drop_interval, compute_mcnemar_p
from worker.measure.metrics import Counts

MOST_ROWS = 1_000
# A class that loses this many times what all samples lose together is worth a warning.
_STANDS_OUT = 3.0
_SURE_P = 0.05

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ClassDamage:
    """`rows` sorted by label, at most MOST_ROWS, those that lose most; `warning` when one stands out."""

    rows: tuple[ClassRow, ...]
    worst: WorstClass
    warning: str | None


def measure_classes(pair: Pair) -> ClassDamage:
    """Compare the recall of every class that the split holds."""
    truth = pair.final.integers("truth")
    before, after = pair.baseline.integers("prediction") == truth, pair.final.integers("prediction") == truth
    labels, n = np.unique(truth, return_counts=True)
    lost = _sum_by_label(truth, before) - _sum_by_label(truth, after)  # [highest label + 1]
    worst_first = sorted(range(len(labels)), key=lambda i: (-lost[labels[i]] / n[i], labels[i]))
    listed = [int(labels[i]) for i in worst_first[:MOST_ROWS]]
    members = {label: np.flatnonzero(truth == label) for label in listed}
    rows = {label: _make_row(label, before[members[label]], after[members[label]]) for label in listed}
    first = rows[listed[0]]
    worst = WorstClass(label=first.label, n=first.n, drop=first.drop, drop_ci95=first.drop_ci95)
    return ClassDamage(
        rows=tuple(rows[label] for label in sorted(rows)),
        worst=worst,
        warning=_warn(worst, before, after, truth=truth),
    )


def _sum_by_label(truth: Counts, flags: Bools) -> Counts:
    return np.bincount(truth[flags], minlength=int(truth.max()) + 1)


def _make_row(label: int, before: Bools, after: Bools) -> ClassRow:
    n, hits_before, hits_after = len(before), int(before.sum()), int(after.sum())
    return ClassRow(
        label=label,
        n=n,
        baseline=hits_before / n,
        final=hits_after / n,
        drop=(hits_before - hits_after) / n,
        drop_ci95=compute_drop_interval(int((before & ~after).sum()), int((~before & after).sum()), n),
    )


def _warn(worst: WorstClass, before: Bools, after: Bools, *, truth: Counts) -> str | None:
    """Say that the worst class stands out, if that is no accident.

    Its interval alone does not tell: among a thousand classes the worst has lost much by chance alone. So
    McNemar's test is asked too, at 5 % over as many classes as there are (Bonferroni).
    """
    is_member, classes = truth == worst.label, len(np.unique(truth))
    overall = (int(before.sum()) - int(after.sum())) / len(before)
    became_wrong = int((before & ~after & is_member).sum())
    became_right = int((~before & after & is_member).sum())
    is_sure = worst.drop_ci95[0] > 0 and compute_mcnemar_p(became_wrong, became_right) <= _SURE_P / classes
    if worst.drop <= _STANDS_OUT * overall or not is_sure:
        return None
    low, high = worst.drop_ci95
    return (
        f"class {worst.label} loses {worst.drop:.2%} of its {worst.n:,} test samples (95 % interval "
        f"{low:.2%} to {high:.2%}), all classes together {overall:.2%}: the average hides it"
    )
