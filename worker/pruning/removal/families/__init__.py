"""What families of models keep of their sizes beside their tensors: one file a family, found by a scan.

A family is declared, not programmed: which attributes of which modules are sizes, which list holds its
layers, and which fields of its configuration can express a new shape.
"""

from worker.pruning.removal.families.registry import Family, Size, families, find_family, find_sizes, register

__all__ = ["Family", "Size", "families", "find_family", "find_sizes", "register"]
