"""Channels picked by their place: what a constant place holds stays, equal parts lose the same places."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.worker.pruning.removal.traps import Functional, conv, free_units, images, scrutinise

Layers = nn.ModuleDict
ALL = list(range(8))


def gated(gate: Callable[[Tensor], Tensor]) -> Functional:
    """Return a network whose eight channels meet a gate made of some of them."""

    def forward(layers: Layers, x: Tensor) -> Tensor:
        x = functional.relu(layers["a"](x))
        return layers["c"](layers["b"](x * gate(x).sigmoid()))

    return Functional(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 2))


@pytest.mark.parametrize(
    ("gate", "free"),
    [
        (lambda x: x[:, 2:3], [3, 4, 5, 6, 7]),
        (lambda x: x[:, :1], ALL[1:]),
        (lambda x: x[:, -1:], ALL[:-1]),
        (lambda x: x[:, -3:-2], ALL[:-3]),
        (lambda x: x[:, 2].unsqueeze(1), [3, 4, 5, 6, 7]),
        (lambda x: x[:, -2].unsqueeze(1), ALL[:-2]),
        (lambda x: x.narrow(1, 1, 1), ALL[2:]),
        (lambda x: x[:, 3:].mean(1, keepdim=True), []),
        (lambda x: x.unbind(1)[3].unsqueeze(1), []),
        (lambda x: x.index_select(1, torch.tensor([3])), []),
        (lambda x: x[:, [3]], []),
    ],
)
def test_what_lies_before_a_constant_place_stays_and_the_rest_goes(
    gate: Callable[[Tensor], Tensor], free: list[int]
) -> None:
    found = scrutinise(gated(gate), images())
    assert free_units(found, "a") == free
    assert free_units(found, "b") == list(range(6))
    reasons = {str(group.why_not) for group in found.values() if not group.is_removable}
    assert any("picked by" in reason for reason in reasons)


def test_a_channel_that_is_appended_once_more_stays() -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        x = functional.relu(layers["a"](x))
        return layers["b"](torch.cat([x, x[:, 3:4]], 1))

    found = scrutinise(Functional(forward, a=conv(3, 8), b=conv(9, 2)), images())
    assert free_units(found, "a") == [4, 5, 6, 7]


@pytest.mark.parametrize(
    "parts",
    [
        lambda x: (x[:, ::2], x[:, 1::2]),
        lambda x: (x[:, :4], x[:, 4:]),
        lambda x: x.split(4, 1),
        lambda x: x.split((3, 5), 1),
        lambda x: (x[:, :3], x[:, 3:]),
    ],
)
def test_parts_of_sizes_that_the_code_says_stay_where_something_reads_each(
    parts: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        one, other = parts(functional.relu(layers["a"](x)))
        return layers["d"](layers["b"](one) + layers["c"](other))

    sizes = [part.shape[1] for part in parts(images(8))]
    model = Functional(forward, a=conv(3, 8), b=conv(sizes[0], 6), c=conv(sizes[1], 6), d=conv(6, 2))
    found = scrutinise(model, images())
    assert free_units(found, "a") in ([], [3, 4, 5, 6, 7])
    assert free_units(found, "b") == list(range(6))


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]


@pytest.mark.parametrize("parts", [lambda x: x.chunk(2, 1), halves])
def test_halves_of_whatever_is_there_lose_the_same_places(
    parts: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        one, other = parts(functional.relu(layers["a"](x)))
        return layers["d"](layers["b"](one) + layers["c"](other))

    found = scrutinise(Functional(forward, a=conv(3, 8), b=conv(4, 6), c=conv(4, 6), d=conv(6, 2)), images())
    assert found["a"].units == 4
    assert free_units(found, "a") == ALL


@pytest.mark.parametrize("is_residual", [True, False])
def test_a_block_that_splits_and_appends_can_be_cut(is_residual: bool) -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        parts = list(functional.relu(layers["a"](x)).chunk(2, 1))
        more = layers["n"](functional.relu(layers["m"](parts[-1])))
        parts.append(parts[-1] + more if is_residual else more)
        return layers["c"](layers["b"](torch.cat(parts, 1)))

    model = Functional(forward, a=conv(3, 8), m=conv(4, 4), n=conv(4, 4), b=conv(12, 6), c=conv(6, 2))
    found = scrutinise(model, images())
    assert free_units(found, "a") == ALL
    assert free_units(found, "b", axis=1) == list(range(12))


def gate_by_hand(x: Tensor) -> Tensor:
    one, other = x.chunk(2, 1)
    return one * other.sigmoid()


@pytest.mark.parametrize("gate", [gate_by_hand, lambda x: functional.glu(x, 1)])
def test_a_gated_unit_ties_a_half_to_its_gate(gate: Callable[[Tensor], Tensor]) -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        return layers["b"](gate(layers["a"](x)))

    found = scrutinise(Functional(forward, a=conv(3, 8), b=conv(4, 2)), images())
    assert found["a"].units == 4
    assert free_units(found, "a") == ALL


def test_places_that_are_worked_out_from_the_size_are_followed() -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        x = layers["a"](x)
        return layers["b"](x.index_select(1, torch.arange(x.shape[1]).repeat_interleave(2)))

    found = scrutinise(Functional(forward, a=conv(3, 8), b=conv(16, 2)), images())
    assert free_units(found, "a") == ALL
    assert free_units(found, "b", axis=1) == list(range(16))


def test_heads_stay_whole_where_a_part_of_each_is_picked() -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        x = layers["a"](x).unflatten(-1, (-1, 4))  # [n, heads, size]
        turned = torch.cat([x[..., :1] * 2, x[..., 1:]], -1)
        return layers["b"](turned.flatten(1))

    found = scrutinise(Functional(forward, a=nn.Linear(5, 12), b=nn.Linear(12, 2)), torch.randn(2, 5))
    assert found["a"].units == 3
    assert found["a"].is_removable
