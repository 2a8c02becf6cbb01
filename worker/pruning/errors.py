"""What can go wrong while pruning: each class is one kind of mistake and says what to do about it."""

import difflib
from collections.abc import Iterable


class PruningError(Exception):
    """The model cannot be pruned as asked."""


class UnreachableTarget(PruningError):
    """The target asks for a size that no mask reaches; `nearest` is the closest value that one does."""

    def __init__(self, detail: str, *, metric: str, asked: float, nearest: float) -> None:
        super().__init__(f"{detail}: asked for {metric} {asked:g}, the nearest reachable is {nearest:g}")
        self.metric = metric
        self.asked = asked
        self.nearest = nearest


class UnsupportedTarget(PruningError):
    """The metric can only be measured by running the model, which the caller has to do."""


class UnsuitableLayer(PruningError):
    """A layer does not fit what is asked of it."""


class ReplacedWeights(PruningError):
    """The model has other parameter objects than when its pruner was made."""


class NothingToPrune(PruningError):
    """No layer of the model is left to prune."""


class NoMatch(PruningError):
    """A name or a glob matches no layer; the message names the closest ones."""

    def __init__(self, asked: str, known: Iterable[str], *, what: str = "layer") -> None:
        names = list(known)
        self.closest = difflib.get_close_matches(asked, names, n=3, cutoff=0.0)
        hint = f"the closest are {', '.join(self.closest)}" if self.closest else "there are none"
        super().__init__(f"{asked!r} matches no {what}; {hint}")
        self.asked = asked


class ContradictoryRows(PruningError):
    """Two rows ask opposite things of one layer."""


class NonfiniteScores(PruningError):
    """A criterion gave NaN or infinity."""


class UnsuitableScores(PruningError):
    """An allocation or a pattern cannot compare the scores that a criterion gives."""


class NonfiniteLoss(PruningError):
    """The loss is NaN or infinite, so that nothing can be measured by it."""


class MissingData(PruningError):
    """The criterion or the allocation needs gradients or activations, and no data was given."""


class MaskMismatch(PruningError):
    """A mask does not fit the tensor or the other mask."""


class NeedsTraining(PruningError):
    """Scores or growth come from the gradients of a training, and there were none."""


class NoCycle(PruningError):
    """The schedule has no further cycle, or none at all."""


class NoRegrowth(PruningError):
    """The schedule does not move kept weights about."""


class Untraceable(PruningError):
    """What the model computes depends on the values that it is given, so one pass does not show all of it."""
