"""What a number is made of all channels of stays: their maximum's place, whether any holds, a triangle."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.worker.pruning.removal.traps import Functional, conv, free_units, images, scrutinise

Layers = nn.ModuleDict


@pytest.mark.parametrize("find", [torch.argmax, torch.argmin])
@pytest.mark.parametrize("is_read_beside", [True, False])
def test_channels_of_which_the_largest_is_looked_up_stay(
    find: Callable[..., Tensor], is_read_beside: bool
) -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        x = layers["a"](x)
        found = layers["c"](layers["e"](find(x, 1)).mean((1, 2)))
        return found + layers["b"](functional.relu(x)).mean((2, 3)) if is_read_beside else found

    layers = {"a": conv(3, 8), "e": nn.Embedding(8, 6), "c": nn.Linear(6, 5), "b": conv(8, 5)}
    found = scrutinise(Functional(forward, **layers), images())
    assert found["a"].why_not == "is told by its place in the model"
    assert free_units(found, "e", axis=1) == list(range(6))


def test_a_place_in_space_is_found_for_each_channel() -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        return layers["b"](layers["a"](x).flatten(2).argmax(2).float())

    found = scrutinise(Functional(forward, a=conv(3, 8), b=nn.Linear(8, 5)), images())
    assert free_units(found, "a") == list(range(8))


def test_channels_that_choose_what_is_looked_up_stay() -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        places = layers["a"](x).flatten(2).argmax(2)  # [n, channels]
        return layers["b"](layers["e"](places).flatten(1))

    found = scrutinise(Functional(forward, a=conv(3, 8), e=nn.Embedding(36, 4), b=nn.Linear(32, 5)), images())
    assert found["a"].why_not == "chooses what is looked up in layers.e"


@pytest.mark.parametrize("test", [torch.any, torch.all])
def test_channels_of_which_any_or_all_count_stay(test: Callable[..., Tensor]) -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        x = functional.relu(layers["a"](x))
        return layers["b"](x) * (test(x > 0.5, 1, keepdim=True) + 1.0)

    found = scrutinise(Functional(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 3)), torch.randn(9, 5))
    assert str(found["a"].why_not).startswith("is averaged over")


@pytest.mark.parametrize("cut", [torch.tril, torch.triu])
def test_channels_along_a_triangle_stay_and_others_go(cut: Callable[[Tensor], Tensor]) -> None:
    def forward(layers: Layers, x: Tensor) -> Tensor:
        x = cut(layers["a"](x))  # [n, 5, channels]
        scores = layers["c"](x.sum(-1))[..., None, None].expand(-1, -1, 4, 4)
        return layers["b"](cut(scores).sum((2, 3)))

    found = scrutinise(
        Functional(forward, a=nn.Linear(6, 8), c=nn.Linear(5, 8), b=nn.Linear(8, 3)), torch.randn(2, 5, 6)
    )
    assert found["a"].why_not == "is cut to a triangle in the model"
    assert free_units(found, "c") == list(range(8))
