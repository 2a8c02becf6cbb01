"""What both callbacks ask of a pruner that serves one training run."""

import warnings

from worker.pruning.pruner import Pruner


def check_one_run(pruner: Pruner) -> None:
    """Refuse a schedule that trains several times over: a callback sees one training."""
    if pruner.cycles is not None:
        raise ValueError(
            f"the schedule {pruner.recipe.schedule.name} trains {pruner.cycles.rounds} times, and a callback "
            "serves one training: write the loop around Pruner.next_cycle(), or choose another schedule"
        )


def is_full(pruner: Pruner) -> bool:
    """Tell whether all of the target is pruned: what judged the model before judged another one."""
    return bool(pruner.history) and pruner.history[-1].round.fraction >= 1.0


def finish(pruner: Pruner) -> float:
    """Prune to the full target, exactly; return the sparsity, and warn where nothing was trained after it."""
    before = pruner.masks.sparsity
    after = pruner.finish().sparsity
    if after > before:
        warnings.warn(
            f"training ended at a sparsity of {before:.4f}; the model was pruned to {after:.4f} without "
            "training after it: let the schedule end before the training does",
            stacklevel=2,
        )
    return after
