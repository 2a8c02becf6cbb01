"""Physical removal: find what must be cut together, cut it out of the tensors, and check what is left."""

from worker.pruning.removal.check import compare, prove
from worker.pruning.removal.groups import Group, find_groups
from worker.pruning.removal.shrinking import Shrunk, shrink
from worker.pruning.removal.surgery import Removal, cut_state, masked, plan_removal, remove, removed, resize

__all__ = [
    "Group",
    "Removal",
    "Shrunk",
    "compare",
    "cut_state",
    "find_groups",
    "masked",
    "plan_removal",
    "prove",
    "remove",
    "removed",
    "resize",
    "shrink",
]
