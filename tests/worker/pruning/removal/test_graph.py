"""What must be cut together, what must stay and why, on networks made for one trap each."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import _disable_current_modes

from tests.worker.pruning.removal.drawing import draw_weights, find_and_prove
from tests.worker.pruning.removal.traps import Functional, by_name, conv, images, study
from worker.pruning.errors import Untraceable
from worker.pruning.removal.check import compare, prove
from worker.pruning.removal.groups import Group, find_groups
from worker.pruning.removal.surgery import Removal


def members(group: Group) -> set[tuple[str, int]]:
    return {
        (cut.where.tensor.removeprefix("layers."), cut.where.axis)  # type: ignore[union-attr]  # no knobs here
        for cut in group.cuts
    }


def test_a_residual_sum_ties_the_channels_of_both_branches() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        x = layers["a"](x)
        return layers["c"](x + layers["b"](functional.relu(x)))

    found = study(Functional(forward, a=conv(3, 8), b=conv(8, 8), c=conv(8, 4)), images())
    assert members(found["a"]) == {
        *(("a.weight", 0), ("a.bias", 0), ("b.weight", 0), ("b.weight", 1), ("b.bias", 0), ("c.weight", 1))
    }


def test_a_concatenation_shifts_the_channels_of_its_second_part() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return layers["c"](torch.cat([layers["a"](x), layers["b"](x)], dim=1))

    found = study(Functional(forward, a=conv(3, 4), b=conv(3, 6), c=conv(10, 2)), images())
    (read,) = [cut for cut in found["b"].cuts if cut.where.tensor.endswith("c.weight")]  # type: ignore[union-attr]
    assert read.index.reshape(-1).tolist() == [4, 5, 6, 7, 8, 9]


def test_a_flattened_channel_takes_all_of_its_pixels_along() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return layers["b"](layers["a"](x).flatten(1))

    found = study(Functional(forward, a=conv(3, 4), b=nn.Linear(4 * 36, 2)), images())
    (read,) = [cut for cut in found["a"].cuts if cut.where.tensor.endswith("b.weight")]  # type: ignore[union-attr]
    assert read.index[1].tolist() == list(range(36, 72))


def test_groups_of_a_convolution_stay_of_one_size() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return layers["c"](layers["b"](layers["a"](x)))

    found = study(Functional(forward, a=conv(3, 8), b=conv(8, 12, groups=2), c=conv(12, 2)), images())
    assert found["a"].units == 4
    assert found["b"].units == 6


def test_a_shuffle_of_channels_is_followed() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        x = layers["a"](x)
        n, _, h, w = x.shape
        x = x.view(n, 2, -1, h, w).transpose(1, 2).flatten(1, 2)
        return layers["b"](x)

    model = Functional(forward, a=conv(3, 8), b=conv(8, 2))
    draw_weights(model)
    group = by_name(find_groups(model, images()))["a"]
    (read,) = [cut for cut in group.cuts if cut.where.tensor.endswith("b.weight")]  # type: ignore[union-attr]
    assert read.index.reshape(-1).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_an_excitation_is_tied_to_the_channels_that_it_scales() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        x = layers["a"](x)
        squeezed = functional.relu(layers["down"](x.mean((2, 3), keepdim=True)))
        return layers["b"](x * layers["up"](squeezed).sigmoid())

    model = Functional(forward, a=conv(3, 8), down=nn.Conv2d(8, 2, 1), up=nn.Conv2d(2, 8, 1), b=conv(8, 2))
    found = study(model, images())
    assert ("up.weight", 0) in members(found["a"])
    assert found["down"].units == 2


def test_what_a_norm_averages_over_stays() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return layers["b"](layers["norm"](layers["a"](x)))

    model = Functional(forward, a=nn.Linear(5, 8), norm=nn.LayerNorm(8), b=nn.Linear(8, 2))
    assert study(model, torch.randn(2, 5))["a"].why_not == "is normalised over in layers.norm"


def test_an_operation_without_a_rule_keeps_what_goes_through_it() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        x = functional.relu(layers["a"](x))
        return layers["c"](torch.special.bessel_j0(layers["b"](x)))

    model = Functional(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 2))
    found = study(model, torch.randn(2, 5))
    assert found["a"].is_removable
    assert "special_bessel_j0 in the model, which is not understood" in str(found["b"].why_not)


def test_a_width_that_is_written_into_the_code_is_found_by_trying() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return layers["b"](layers["a"](x).reshape(-1, 8))

    found = study(Functional(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2)), torch.randn(2, 5))
    assert "is a constant of the model's code" in str(found["a"].why_not)


def widths_by_name(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    x = layers["a"](x)
    return layers["b"](x) * {8: 1.0}[x.shape[1]]


def widths_by_attribute(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    x = layers["a"](x)
    return layers["b"](getattr(x, "relu" if x.shape[1] == 8 else "reluu")())


def widths_of_another_kind(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    x = layers["a"](x)
    return layers["b"](x) * (1.0 if x.shape[1] == 8 else None)


def widths_that_divide(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    x = layers["a"](x)
    return layers["b"](x) * (1 / (x.shape[1] // 8))


@pytest.mark.parametrize(
    ("forward", "error"),
    [
        (widths_by_name, "KeyError"),
        (widths_by_attribute, "AttributeError"),
        (widths_of_another_kind, "TypeError"),
        (widths_that_divide, "ZeroDivisionError"),
    ],
)
def test_whatever_the_code_raises_at_another_width_is_the_reason(
    forward: Callable[[nn.ModuleDict, Tensor], Tensor], error: str
) -> None:
    found = study(Functional(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2)), torch.randn(2, 5))
    assert f"is a constant of the model's code: without 4 of 8 units, {error}" in str(found["a"].why_not)


def written_front(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    x = layers["a"](x)
    return layers["b"](x * cell(x, 2).sigmoid())


def written_end(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    x = layers["a"](x)
    return layers["b"](x * cell(x, x.shape[1] - 1).sigmoid())


def cell(x: Tensor, at: int) -> Tensor:
    """Read a column where the tracer does not see it."""
    with _disable_current_modes():
        return x[:, at : at + 1] * 1.0


def written_even(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    x = layers["a"](x)
    if x.shape[1] % 2:
        raise ValueError("an even number is wanted")
    return layers["b"](x)


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (written_front, "does not stand alone: without 4 of 8 units outputs differ"),
        (written_end, "does not stand alone: without one unit outputs differ"),
        (written_even, "without one unit, ValueError: an even number is wanted"),
    ],
)
def test_places_that_the_rules_do_not_see_are_found_by_trying(
    forward: Callable[[nn.ModuleDict, Tensor], Tensor], said: str
) -> None:
    def more(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return layers["d"](layers["c"](forward(layers, x)))

    layers = {"a": nn.Linear(5, 8), "b": nn.Linear(8, 6), "c": nn.Linear(6, 7), "d": nn.Linear(7, 2)}
    found = study(Functional(more, **layers), torch.randn(2, 5))
    assert said in str(found["a"].why_not)
    assert found["b"].is_removable
    assert found["c"].is_removable


def test_a_difference_that_is_not_a_number_hides_behind_no_other_output() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> tuple[Tensor, Tensor]:
        x = layers["a"](x)
        return layers["b"](x), layers["c"](x) / torch.zeros(2)

    model = Functional(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2), c=nn.Linear(8, 2))
    x = torch.randn(2, 5)
    assert math.isnan(compare(model, Removal({}, {}), lambda one: one(x)))
    assert "differ by nan" in str(by_name(find_and_prove(model, x))["a"].why_not)


def test_numbers_of_half_precision_may_be_rounded_otherwise() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return layers["c"](layers["b"](layers["a"](x).relu()).relu())

    model = Functional(forward, a=nn.Linear(5, 512), b=nn.Linear(512, 512), c=nn.Linear(512, 2))
    draw_weights(model)
    found = by_name(find_and_prove(model.bfloat16(), torch.randn(64, 5).bfloat16()))
    assert found["a"].is_removable
    assert found["b"].is_removable


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_machine_out_of_memory_is_not_blamed_on_the_model(error: RuntimeError) -> None:
    model = Functional(lambda layers, x: layers["b"](layers["a"](x)), a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    x, calls = torch.randn(2, 5), itertools.count()

    def run(one: nn.Module) -> object:
        # The dense and the masked pass go well, the removed one does not.
        if next(calls) == 2:
            raise error
        return one(x)

    with pytest.raises(type(error), match=str(error)):
        prove(model, find_groups(model, x), run)


def test_the_only_head_is_not_removed() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        return layers["b"](layers["a"](x))

    found = study(Functional(forward, a=nn.Linear(5, 1), b=nn.Linear(1, 2)), torch.randn(2, 5))
    assert found["a"].why_not == "is the only one of its kind there"


def test_a_multihead_attention_of_torch_is_refused_with_the_reason() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.attention(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]

    model = Block()
    draw_weights(model)
    groups = find_and_prove(model, torch.randn(2, 3, 8))
    assert all(not group.is_removable for group in groups)


@pytest.mark.parametrize(
    "decide",
    [
        lambda x: bool(x.sum() > 0),
        lambda x: x.max().item() > 0,
        lambda x: len(x.nonzero()) > 3,
        lambda x: x.sum().tolist() > 0,
        lambda x: x.numpy().sum() > 0,
        lambda x: np.asarray(x.detach().cpu()).sum() > 0,
        lambda x: np.from_dlpack(x).sum() > 0,
        lambda x: torch.allclose(x, x * 1.0),
        lambda x: torch.equal(x, x * 1.0),
    ],
)
@pytest.mark.parametrize("is_computed", [True, False])
def test_control_flow_on_values_is_refused_with_its_place(
    decide: Callable[[Tensor], bool], is_computed: bool
) -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        hidden = layers["a"](x)
        return layers["b" if decide(hidden if is_computed else x) else "c"](hidden)

    model = Functional(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2), c=nn.Linear(8, 2))
    with pytest.raises(Untraceable, match=r"depends on the values that it computed: test_graph.py, line \d+"):
        find_groups(model, torch.randn(2, 5))


def test_what_leaves_torch_without_a_value_of_the_model_is_no_matter() -> None:
    def forward(layers: nn.ModuleDict, x: Tensor) -> Tensor:
        sizes = torch.arange(len(x)).tolist()
        return layers["b"](layers["a"](x)) + sum(sizes) + float(torch.ones(2).numpy().sum())

    model = Functional(forward, a=nn.Linear(5, 8), b=nn.Linear(8, 2))
    assert study(model, torch.randn(2, 5))["a"].is_removable


def test_a_layer_that_the_pass_does_not_reach_is_in_no_group() -> None:
    model = Functional(lambda layers, x: layers["a"](x), a=nn.Linear(5, 2), unused=nn.Linear(5, 2))
    assert all("unused" not in group.name for group in find_groups(model, torch.randn(2, 5)))


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = Functional(lambda layers, x: layers["a"](x), a=nn.Linear(5, 2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    find_groups(model, torch.randn(2, 5))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
