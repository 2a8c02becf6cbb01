"""What rows, the largest fraction and a multiple let each group lose, and what contradicts itself."""

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.removal.small_network import DATA, MACS, network, parameters, structure
from worker.pruning.errors import ContradictoryRows, UnreachableTarget
from worker.pruning.removal.recipe import Structure
from worker.pruning.removal.shrinking import find_removable, shrink
from worker.pruning.removal.tracer import Axis


def test_sizes_are_kept_at_a_multiple() -> None:
    model = network()
    shrink(model, structure(multiple_of=8), DATA)
    assert parameters(model) <= 40_000
    widths = [len(module.weight) for name, module in model.named_modules() if name.endswith("bn1")]
    assert all(width % 8 == 0 for width in widths)


class Grouped(nn.Module):
    """A convolution in four groups of eight channels: a unit is one channel of each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3)
        self.grouped = nn.Conv2d(32, 32, 3, groups=4)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.grouped(torch.relu(self.first(x)))).mean((2, 3)))
        return out


@pytest.mark.parametrize(("multiple_of", "widths"), [(1, {4}), (8, {8}), (3, {12}), (16, {16})])
def test_a_multiple_counts_channels_and_not_units(multiple_of: int, widths: set[int]) -> None:
    model = Grouped()
    smallest = structure(multiple_of=multiple_of, max_fraction=1.0, target={"metric": "macs", "value": 1})
    with pytest.raises(UnreachableTarget) as caught:
        shrink(model, smallest, DATA)
    shrink(model, {**smallest, "target": {"metric": "macs", "value": caught.value.nearest}}, DATA)
    assert {len(model.first.weight), len(model.grouped.weight)} == widths


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_multiple_keeps_to_what_the_rows_ask_for(rounds: int) -> None:
    model = network()
    rows = [{"match": "layer3.0.conv1", "set": {"min_sparsity": 0.5}}]  # of 64: 30 is the next multiple of 3
    asked = structure(layers=rows, multiple_of=3, rounds=rounds, target={"metric": "macs", "value": 1e9})
    shrink(model, asked, DATA)
    assert model.get_submodule("layer3.0.conv1").weight.shape[0] == 30  # type: ignore[union-attr, index]


def test_rows_that_leave_no_multiple_are_refused_with_what_they_leave() -> None:
    rows = [{"match": "layer3.0.conv1", "set": {"sparsity": 0.5}}]
    said = r"layer3.0.conv1.weight has to keep 32 to 32 of its 64 channels .* no multiple of 3 outputs"
    with pytest.raises(ContradictoryRows, match=said):
        shrink(network(), structure(layers=rows, multiple_of=3), DATA)


@pytest.mark.parametrize("rounds", [1, 3])
def test_rows_exclude_and_bound_groups(rounds: int) -> None:
    model = network()
    rows = [
        {"match": "layer3.0.conv1", "set": {"exclude": True}},
        {"match": "layer2.0.conv1", "set": {"sparsity": 0.75}},
    ]
    target = {"metric": "parameters", "value": 50_000}
    shrink(model, structure(layers=rows, rounds=rounds, target=target), DATA)
    assert model.get_submodule("layer3.0.conv1").weight.shape[0] == 64  # type: ignore[union-attr, index]
    assert model.get_submodule("layer2.0.conv1").weight.shape[0] == 8  # type: ignore[union-attr, index]


def test_a_row_bounds_all_groups_whose_channels_one_tensor_makes() -> None:
    # The shortcut pads 8 channels before and 8 after the 16 of the first stage: a group of their own.
    names = [
        group.name
        for group in find_removable(network(), Structure.model_validate({"target": MACS}), DATA[0][0])
    ]
    assert {"layer2.0.conv2.weight", "layer2.0.conv2.weight[0, 24]"} <= set(names)
    model = network()
    rows = [{"match": name, "set": {"sparsity": 0.0}} for name in ("conv1", "layer?.0.conv2")]
    shrink(model, structure(layers=rows, ranking="global"), DATA)
    widths = [model.get_submodule(f"layer{stage}.0.conv2").weight.shape[0] for stage in (1, 2, 3)]  # type: ignore[union-attr, index]
    assert widths == [16, 32, 64]


@pytest.mark.parametrize("rounds", [1, 3])
def test_rounds_cut_no_more_of_the_second_group_of_a_tensor_than_its_rows_ask_for(rounds: int) -> None:
    rows = [{"match": "layer2.0.conv2", "set": {"sparsity": 0.5}}]
    model = network()

    found = shrink(
        model, structure(layers=rows, rounds=rounds, target={"metric": "macs", "value": 1e9}), DATA
    )

    # The shortcut fills up with zeros: some channels of the sum are conv2's alone.
    groups = [group for group in found.groups if group.owner == "layer2.0.conv2.weight"]
    kept = found.removal.kept[Axis("layer2.0.conv2.weight", 0)].tolist()
    for group in groups:
        own = set(group.cuts[0].index.reshape(-1).tolist())
        assert len(own.intersection(kept)) == len(own) / 2
    assert len(groups) == 2
    assert len(kept) == 16


def test_a_layer_tied_to_an_excluded_one_stays_and_says_so() -> None:
    rows = [{"match": "layer1.0.conv2", "set": {"exclude": True}}]
    groups = find_removable(network(), Structure.model_validate({"target": MACS}), DATA[0][0])
    assert groups[0].is_removable
    asked = Structure.model_validate_json(
        '{"target": {"metric": "macs", "value": 2e5}, "layers": '
        '[{"match": "layer1.0.conv2", "set": {"exclude": true}}]}'
    )
    first = find_removable(network(), asked, DATA[0][0])[0]
    assert first.name == "conv1.weight"
    assert first.why_not == "is cut together with layer1.0.conv2.weight, which is excluded by the recipe"
    both = [*rows, {"match": "conv1", "set": {"sparsity": 0.5}}]
    with pytest.raises(ContradictoryRows, match=r"conv1.weight is to lose 0.5 .* layer1.0.conv2.weight"):
        shrink(network(), structure(layers=both), DATA)


@pytest.mark.parametrize("asked", ["conv1", "layer1.0.conv2"])
def test_a_row_for_any_layer_of_a_sum_bounds_what_the_sum_loses(asked: str) -> None:
    target = {"metric": "parameters", "value": 20_000}
    for setting, widths in (
        ({"sparsity": 0.0}, {16}),
        ({"max_sparsity": 0.25}, {12, 13, 14, 15, 16}),
        ({"min_sparsity": 0.95}, {1}),
    ):
        model = network()
        rows = [{"match": asked, "set": setting}]
        shrink(model, structure(layers=rows, ranking="global", target=target), DATA)
        assert model.get_submodule("conv1").weight.shape[0] in widths, setting  # type: ignore[union-attr, index]


def test_the_strictest_rows_of_layers_that_go_together_win() -> None:
    model = network()
    rows = [
        {"match": "conv1", "set": {"min_sparsity": 0.25, "max_sparsity": 0.75}},
        {"match": "layer1.0.conv2", "set": {"min_sparsity": 0.5, "max_sparsity": 0.5}},
    ]
    shrink(model, structure(layers=rows), DATA)
    assert model.get_submodule("conv1").weight.shape[0] == 8  # type: ignore[union-attr, index]


def test_rows_of_layers_that_go_together_may_not_contradict_each_other() -> None:
    rows = [
        {"match": "conv1", "set": {"max_sparsity": 0.25}},
        {"match": "layer1.0.conv2", "set": {"min_sparsity": 0.5}},
    ]
    said = r"layer1.0.conv2.weight is to lose at least 0.5 .* conv1.weight, which is to lose at most 0.25"
    with pytest.raises(ContradictoryRows, match=said):
        shrink(network(), structure(layers=rows), DATA)


def test_a_layer_that_is_no_group_s_first_cannot_be_asked_for_when_it_is_tied_to_an_excluded_one() -> None:
    rows = [
        {"match": "conv1", "set": {"exclude": True}},
        {"match": "layer1.0.conv2", "set": {"sparsity": 0.5}},
    ]
    with pytest.raises(ContradictoryRows, match=r"layer1.0.conv2.weight is to lose 0.5 .* conv1.weight"):
        shrink(network(), structure(layers=rows), DATA)


def test_a_row_that_asks_for_more_than_the_largest_fraction_is_met() -> None:
    model = network()
    rows = [{"match": "layer3.0.conv1", "set": {"min_sparsity": 0.5}}]
    shrink(model, structure(layers=rows, max_fraction=0.25, target={"metric": "macs", "value": 1e9}), DATA)
    assert model.get_submodule("layer3.0.conv1").weight.shape[0] == 32  # type: ignore[union-attr, index]


class Likes(nn.Sequential):
    """Two blocks of one make, each with eight neurons of its own."""

    def __init__(self) -> None:
        def block() -> nn.Sequential:
            return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 64))

        super().__init__(nn.Flatten(), block(), block(), nn.Linear(64, 10))


def test_uniform_ranking_refuses_rows_that_want_groups_of_one_make_at_two_sizes() -> None:
    rows = [{"match": "1.0", "set": {"sparsity": 0.5}}, {"match": "2.0", "set": {"sparsity": 0.0}}]
    asked = structure(layers=rows, ranking="uniform", target={"metric": "parameters", "value": 1e9})
    said = r"1.0.weight has to lose at least 4 .* 2.0.weight may lose at most 0.*one size"
    with pytest.raises(ContradictoryRows, match=said):
        shrink(Likes(), asked, DATA)
    model = Likes()
    shrink(model, {**asked, "ranking": "local"}, DATA)
    assert [len(model.get_submodule(name).weight) for name in ("1.0", "2.0")] == [4, 8]  # type: ignore[arg-type]
