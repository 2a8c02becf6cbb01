"""What optimizers remember of pruned weights is zero, and nothing else of what they remember is touched."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from worker.pruning import Pruner
from worker.pruning.holding import Holder
from worker.pruning.layers import find_layers, find_parameters

SIZE = 8
# Sparse gradients, closures, and what is no optimizer of a kind.
OTHERS = {"SparseAdam", "LBFGS", "Optimizer"}
OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name not in OTHERS
)
MORE: dict[str, dict[str, Any]] = {
    "Adam": {"amsgrad": True},
    "AdamW": {"amsgrad": True},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "SGD": {"momentum": 0.9},
}


def train(optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> tuple[dict[str, Any], Tensor]:
    """Prune half of a square layer and take two steps; return the optimizer's state of it, and the mask."""
    torch.manual_seed(0)
    model = nn.Linear(SIZE, SIZE, bias=False)
    made = optimizer([model.weight])
    pruner = Pruner(model, {"target": {"value": 0.5}})
    pruner.attach(made)
    pruner.update()
    for _ in range(2):
        model(torch.randn(4, SIZE)).square().mean().backward()
        made.step()
    mask = pruner.masks["weight"]
    assert not model.weight[~mask].any()
    return made.state[model.weight], mask


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_torch_forgets_pruned_weights_of_a_square_layer_too(name: str) -> None:
    state, mask = train(lambda weights: getattr(torch.optim, name)(weights, **MORE.get(name, {})))
    memory = [value for value in state.values() if isinstance(value, Tensor) and value.shape == mask.shape]
    assert memory or name == "Adafactor"
    assert all(not value[~mask].any() for value in memory)


class Wrapped(Tensor):
    """A tensor that is stored as something else, which knows no operation but its own."""

    @staticmethod
    def __new__(cls, shape: torch.Size) -> "Wrapped":
        return Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, func: object, *args: object, **kwargs: object) -> object:
        raise NotImplementedError(f"{func} is not implemented for quantized memory")


class Remembering(torch.optim.SGD):
    """Plain steps, and some tensor kept of each parameter."""

    def __init__(self, weights: list[nn.Parameter], name: str, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__(weights, lr=0.1)
        for weight in weights:
            self.state[weight][name] = make(weight)


def test_memory_in_integers_is_left_as_it_is() -> None:
    state, _ = train(lambda w: Remembering(w, "state1", lambda w: torch.full(w.shape, 7, dtype=torch.uint8)))
    assert (state["state1"] == 7).all()


def test_a_preconditioner_of_the_rows_of_a_square_weight_is_left_as_it_is() -> None:
    state, _ = train(lambda w: Remembering(w, "precond_0", lambda w: torch.ones(w.shape)))
    assert (state["precond_0"] == 1.0).all()


def test_memory_behind_a_class_of_its_own_is_left_as_it_is() -> None:
    state, _ = train(lambda w: Remembering(w, "exp_avg", lambda w: Wrapped(w.shape)))
    assert type(state["exp_avg"]) is Wrapped


def test_masks_follow_their_weights_to_another_device() -> None:
    # The second layer stands for one that moved to a GPU after it was pruned.
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False, device="meta"))
    layers = find_layers(model)
    holder = Holder(layers, {layer.name: find_parameters(model, layer) for layer in layers})
    stays, moves = torch.rand(3, 4) < 0.5, torch.rand(2, 3) < 0.5
    holder.masks = {"0.weight": stays, "1.weight": moves}
    assert holder.masks["0.weight"] is stays
    assert [holder.masks["1.weight"].device.type, moves.device.type] == ["meta", "cpu"]
    # Moved once, not at every step.
    assert holder.masks["1.weight"] is holder.masks["1.weight"]
    assert holder.all_masks()["1.weight"].device.type == "meta"
