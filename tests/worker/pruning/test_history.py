"""What each round reached, counted without making anything of a layer's size."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from worker.pruning import MaskSet, Pruner
from worker.pruning.history import compare
from worker.pruning.layers import Layer, find_layers
from worker.pruning.rounds import Round

ROUND = Round(1, 0, 0.0, 0.5)


class CountBoolsAsLargeAs(TorchDispatchMode):
    """Counts the bool tensors that operations return with at least so many elements."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.count = numel, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.bool and result.numel() >= self.numel:
            self.count += result.untyped_storage().data_ptr() not in {
                value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)
            }
        return result


def layers_of(*sizes: int) -> list[Layer]:
    model = nn.ModuleList(nn.Linear(size, 1, bias=False) for size in sizes)
    return list(find_layers(model))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2, 5, 300_000]),
            st.one_of(st.none(), st.floats(0, 1)),
            st.one_of(st.none(), st.floats(0, 1)),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 99),
)
def test_counts_are_those_of_whole_masks(
    rows: list[tuple[int, float | None, float | None]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    layers = layers_of(*(size for size, *_ in rows))

    def draw(shares: list[float | None]) -> dict[str, Tensor]:
        return {
            layer.name: torch.rand(layer.weight.shape, generator=generator) < share
            for layer, share in zip(layers, shares, strict=True)
            if share is not None
        }

    def fill(masks: Mapping[str, Tensor]) -> MaskSet:
        ones = {layer.name: torch.ones_like(layer.weight, dtype=torch.bool) for layer in layers}
        return MaskSet({**ones, **masks})

    before, after = draw([share for _, share, _ in rows]), draw([share for *_, share in rows])
    reached = compare(ROUND, layers, before, after)
    assert reached.sparsity == pytest.approx(fill(after).sparsity)
    assert reached.dropped == (fill(before) - fill(after)).kept
    assert reached.grown == (fill(after) - fill(before)).kept


@pytest.mark.parametrize("updates", [1, 2])
def test_a_round_makes_no_mask_besides_the_new_ones(updates: int) -> None:
    sizes = [600_000, 400_000, 700_000]
    layers = nn.ModuleList(nn.Linear(size, 1, bias=False) for size in sizes)
    pruner = Pruner(layers, {"target": {"value": 0.7}, "schedule": {"name": "linear"}})
    for number in range(1, updates):
        pruner.update(number / updates)
    with CountBoolsAsLargeAs(min(sizes)) as made:
        pruner.update(1.0)
    assert made.count <= len(sizes)
