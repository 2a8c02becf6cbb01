"""What families of models keep of their sizes beside their tensors: one file a family, found by a scan.

A family is declared, not programmed: which attributes of which modules are sizes, which lists hold its
layers, and which fields of its configuration can express a new shape.
"""

from worker.pruning.removal.families.registry import (
    Blocks,
    Family,
    Field,
    Queries,
    Size,
    families,
    find_blocks,
    find_constants,
    find_family,
    find_sizes,
    register,
)

__all__ = [
    "Blocks",
    "Family",
    "Field",
    "Queries",
    "Size",
    "families",
    "find_blocks",
    "find_constants",
    "find_family",
    "find_sizes",
    "register",
]
