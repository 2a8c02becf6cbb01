"""Query heads as units of their own, where several of them share one key and value head.

What the graph proves is that all queries of a key go with it, since each key is repeated for equally many
of them. One query of every key can go as well: a unit here is the query at the same place of every key. A
model whose queries share a single key (MQA) can lose any of its query heads so, and its key never.
"""

from collections.abc import Iterator

import torch
from torch import nn

from worker.pruning.removal.families import Queries, find_family
from worker.pruning.removal.groups import Cut, Group
from worker.pruning.removal.tracer import Axis


def find_query_groups(model: nn.Module) -> tuple[Group, ...]:
    """Return the groups of query heads of a model of a known family, in the order of its modules.

    They overlap with the groups of `find_groups`, whose heads are keys with all of their queries: a plan
    may name both, and then cuts what either says. Prove them as those.
    """
    family = find_family(model)
    if family is None:
        return ()
    return tuple(
        group
        for name, module in model.named_modules()
        if (queries := family.queries.get(type(module).__name__)) is not None
        for group in _make_group(name, module, queries)
    )


def _make_group(name: str, module: nn.Module, queries: Queries) -> Iterator[Group]:
    """Yield the group of an attention, none where each query has a key of its own."""
    size = int(getattr(module, queries.head_size))
    made, read = f"{name}.{queries.query}", f"{name}.{queries.output}.weight"
    rows, keys = (len(module.get_parameter(f"{one}.weight")) for one in (queries.query, queries.key))
    if rows == keys:
        return
    # [keys, queries of a key, size] -> [queries of a key, keys * size]
    positions = torch.arange(rows).reshape(keys // size, rows // keys, size)
    index = positions.transpose(0, 1).reshape(rows // keys, keys)
    cuts = [Cut(Axis(f"{made}.weight", 0), index), Cut(Axis(read, 1), index)]
    if module.get_submodule(queries.query).bias is not None:
        cuts.append(Cut(Axis(f"{made}.bias", 0), index))
    yield Group(f"{made}.weight[of each key]", "query", tuple(cuts))
