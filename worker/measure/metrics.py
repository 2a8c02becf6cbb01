"""The metrics: what each reads of the records, which way is better, and its value over weighted samples.

Every value is a function of how often each sample counts: once for the value that is reported, as often as it
was drawn for a bootstrap. So the interval of a metric needs no second formula.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.core.spec import MetricName

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Arrays = Mapping[str, npt.NDArray[np.generic]]

# exp of more than this is no float any more; a model so far off is not told apart from a worse one.
_MOST_NATS = 700.0


@dataclass(frozen=True)
class Answers:
    """The records of one model, arrays [n, …] by name; `classes` is how many its task tells apart."""

    arrays: Arrays
    classes: int

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def integers(self, name: str) -> Counts:
        """Return one record as [n] int64."""
        return self.arrays[name].astype(np.int64)

    def floats(self, name: str) -> Floats:
        """Return one record as [n, …] float64."""
        return self.arrays[name].astype(np.float64)


@dataclass(frozen=True)
class MetricKind:
    """One metric: `value` takes answers [n] and how often each counts, [draws, n], and returns [draws]."""

    name: MetricName
    higher_is_better: bool
    reads: tuple[str, ...]
    value: Callable[[Answers, Counts], Floats]


def measure(kind: MetricKind, answers: Answers) -> float:
    """Return a metric over every sample once."""
    return float(kind.value(answers, np.ones((1, len(answers)), dtype=np.int64))[0])


def _compute_accuracy(answers: Answers, weights: Counts) -> Floats:
    is_right = answers.integers("prediction") == answers.integers("truth")
    share: Floats = weights[:, is_right].sum(axis=1) / weights.sum(axis=1)
    return share


def _compute_f1(answers: Answers, weights: Counts) -> Floats:
    """Return F1 = 2 TP / (2 TP + FP + FN): of class 1 of two, otherwise the mean over the classes.

    A class that a draw neither holds nor is answered with has no F1 and is left out of its mean.
    """
    hits, predicted, true = _count_classes(answers, weights)
    answered_or_true = predicted + true
    of_class = np.divide(
        2 * hits, answered_or_true, out=np.zeros_like(hits), where=answered_or_true > 0
    )  # [draws, classes]
    if answers.classes == 2:
        return of_class[:, 1]
    mean: Floats = of_class.sum(axis=1) / (answered_or_true > 0).sum(axis=1)
    return mean


def _compute_mcc(answers: Answers, weights: Counts) -> Floats:
    """Return the correlation of answers and truth, 0 where either is constant.

    Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient"; for two
    classes it is the coefficient of Matthews 1975.
    """
    hits, predicted, true = _count_classes(answers, weights)
    n = weights.sum(axis=1)
    covariance = hits.sum(axis=1) * n - (predicted * true).sum(axis=1)
    spread = (n**2 - (predicted**2).sum(axis=1)) * (n**2 - (true**2).sum(axis=1))
    is_defined = spread > 0
    correlation: Floats = np.where(is_defined, covariance, 0.0) / np.sqrt(np.where(is_defined, spread, 1.0))
    return correlation


def _compute_perplexity(answers: Answers, weights: Counts) -> Floats:
    """Return exp of all negative log-likelihood over all tokens: a long text counts more than a short one."""
    nats, tokens = weights @ answers.floats("nll"), weights @ answers.floats("tokens")
    perplexity: Floats = np.exp(np.minimum(nats / np.maximum(tokens, 1.0), _MOST_NATS))
    return perplexity


def _compute_mse(answers: Answers, weights: Counts) -> Floats:
    squared = np.square(answers.floats("prediction") - answers.floats("truth"))
    of_sample = squared.reshape(len(squared), -1).mean(axis=1)
    mean: Floats = weights @ of_sample / weights.sum(axis=1)
    return mean


def _count_classes(answers: Answers, weights: Counts) -> tuple[Floats, Floats, Floats]:
    """Return how often each class is answered rightly, is answered, is true; each [draws, classes].

    Of more than two classes, only those that some sample has or is answered with: the others add nothing to
    any metric, and of 20,000 a bootstrap would take gigabytes.
    """
    prediction, truth, classes = answers.integers("prediction"), answers.integers("truth"), answers.classes
    if classes > 2:
        seen, numbers = np.unique(np.concatenate([prediction, truth]), return_inverse=True)
        prediction, truth = numbers[: len(truth)], numbers[len(truth) :]
        classes = len(seen)
    is_right = prediction == truth
    return (
        _sum_by_class(weights[:, is_right], truth[is_right], classes),
        _sum_by_class(weights, prediction, classes),
        _sum_by_class(weights, truth, classes),
    )


def _sum_by_class(weights: Counts, labels: Counts, classes: int) -> Floats:
    sums = np.zeros((len(weights), classes))
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    if len(present):
        sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


_OF_CLASSES = ("prediction", "truth")
METRICS: Mapping[str, MetricKind] = {
    kind.name: kind
    for kind in (
        MetricKind("accuracy", True, _OF_CLASSES, _compute_accuracy),
        MetricKind("f1", True, _OF_CLASSES, _compute_f1),
        MetricKind("mcc", True, _OF_CLASSES, _compute_mcc),
        MetricKind("perplexity", False, ("nll", "tokens"), _compute_perplexity),
        MetricKind("mse", False, ("prediction", "truth"), _compute_mse),
    )
}
