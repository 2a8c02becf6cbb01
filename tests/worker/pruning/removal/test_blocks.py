"""Whole blocks cut down to a target: the same as passing them by, for good, for a while and in rounds."""

import copy
import itertools
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.worker.pruning.removal.drawing import draw_weights
from tests.worker.pruning.removal.tiny_transformers import KINDS, inputs, make, run
from worker.models.registry import build
from worker.pruning.errors import (
    MaskMismatch,
    MissingData,
    NeedsTraining,
    NoMatch,
    NothingToPrune,
    UnreachableTarget,
)
from worker.pruning.recipe import Choice, InvalidRecipe
from worker.pruning.registry import UnknownPlugin, entries
from worker.pruning.removal.block_importance import build_block_criterion, score_blocks
from worker.pruning.removal.check import TOLERANCE, compare
from worker.pruning.removal.depth import Depth
from worker.pruning.removal.families import find_family
from worker.pruning.removal.recipe import Structure, read_structure
from worker.pruning.removal.shrinking import Shrunk, find_removable, shrink
from worker.pruning.removal.surgery import (
    Removal,
    compose,
    cut_state,
    dump_removal,
    load_removal,
    remove,
    removed,
)
from worker.pruning.statistics.calibration import Calibration

FAMILIES = sorted(KINDS)
STACK = "bert.encoder.layer"
IMAGES = [(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(7)), torch.arange(4))]


def structure(value: float = 1e9, **given: Any) -> dict[str, Any]:  # Any: JSON
    return {"kinds": ["block"], "target": {"metric": "parameters", "value": value}, **given}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def data(name: str) -> list[tuple[Any, Tensor]]:  # Any: inputs by name
    return [(inputs(name), torch.tensor([0, 1]))]


def resnet() -> nn.Module:
    module = build({"name": "resnet-20", "params": {"image_size": 16}}).module
    draw_weights(module)
    return module.eval()


def describe(model: nn.Module) -> tuple[list[str], str, list[int]]:
    """Return what leaving out for a while must put back."""
    config = getattr(model, "config", None)
    numbers = [module.layer_idx for module in model.modules() if hasattr(module, "layer_idx")]
    return list(model.state_dict()), json.dumps(config.to_dict() if config else {}, default=str), numbers


def shrink_by(name: str, model: nn.Module, share: float, **given: Any) -> Shrunk:  # Any: JSON
    """Leave out blocks until that share of the parameters is left."""
    return shrink(model, structure(share * count(model), **given), data(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_left_computes_what_the_model_computes_that_passes_blocks_by(name: str) -> None:
    model = make(name, "eager", layers=4)
    dense = copy.deepcopy(model)
    found = shrink_by(name, model, 0.9)
    assert found.after == count(model) <= 0.9 * found.before
    assert found.removal.depths
    assert not found.removal.tensors
    for length in (7, 12):
        given = inputs(name, length, seed=3)
        assert compare(dense, found.removal, lambda one, given=given: run(one, given)) <= TOLERANCE
    before = describe(dense)
    with removed(dense, found.removal):
        assert describe(dense) == describe(model)
        assert torch.equal(run(dense, inputs(name)), run(model, inputs(name)))
    assert describe(dense) == before
    remove(dense, load_removal(json.loads(json.dumps(dump_removal(found.removal)))))
    assert torch.equal(run(dense, inputs(name)), run(model, inputs(name)))


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "block_influence", "block_loss"])
def test_rounds_are_one_removal_in_terms_of_the_whole_model(criterion: str) -> None:
    model = make("t5", layers=6)
    dense = copy.deepcopy(model)
    target = 0.5 * count(model)
    found = shrink(
        model,
        structure(target, rounds=3, criterion={"name": criterion}),
        [(inputs("t5"), torch.zeros(2, 5, dtype=torch.int64))],
    )
    assert len(found.probes) == 3
    assert sum(len(depth.gone) for depth in found.removal.depths) > 2
    assert all(0 in depth.kept for depth in found.removal.depths)
    remove(dense, found.removal)
    assert describe(dense) == describe(model)
    assert all(
        torch.equal(one, other) for one, other in zip(dense.parameters(), model.parameters(), strict=True)
    )


def test_records_of_blocks_and_of_units_join_in_terms_of_what_was_there_at_first() -> None:
    model = make("bert", layers=5)
    dense = copy.deepcopy(model)
    stack = "bert.encoder.layer"
    first = Removal({}, {}, (Depth(stack, (0, 2, 4), 5),))
    remove(model, first)
    units = shrink(
        model, {"target": {"metric": "parameters", "value": 0.8 * count(model)}}, data("bert")
    ).removal
    last = Removal({}, {}, (Depth(stack, (1, 2), 3),))
    remove(model, last)
    whole = compose(compose(first, units), last)
    assert whole.depths == (Depth(stack, (2, 4), 5),)
    remove(dense, whole)
    assert torch.equal(run(dense, inputs("bert")), run(model, inputs("bert")))
    for name in model.state_dict():
        assert whole.rename(whole.original(name)) == name
    assert whole.rename(f"{stack}.3.output.dense.weight") is None


def test_an_optimizer_goes_on_with_the_blocks_that_stay() -> None:
    model = make("bert", layers=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    given = inputs("bert")
    run(model, given).sum().backward()
    optimizer.step()
    stack = "bert.encoder.layer"
    last = model.get_parameter(f"{stack}.2.output.dense.weight")
    gone = model.get_parameter(f"{stack}.1.output.dense.weight")
    remembered, gone_before = optimizer.state[last]["exp_avg"].clone(), gone.detach().clone()
    removal = Removal({}, {}, (Depth(stack, (0, 2), 3),))
    remove(model, removal)
    cut_state(optimizer, model, removal)
    assert model.get_parameter(f"{stack}.1.output.dense.weight") is last
    assert torch.equal(optimizer.state[last]["exp_avg"], remembered)
    optimizer.zero_grad()
    run(model, given).sum().backward()
    optimizer.step()
    assert torch.equal(gone, gone_before)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "block_influence"])
def test_the_least_important_block_goes_first(criterion: str) -> None:
    model = make("gpt2", layers=4)
    quiet = model.get_submodule("transformer.h.2")
    with torch.no_grad():
        for name, parameter in quiet.named_parameters():
            if "ln_" not in name:
                parameter.mul_(1e-3)
    batches = [(inputs("gpt2"), inputs("gpt2")["input_ids"])]
    found = shrink(model, structure(count(model) - 1, criterion={"name": criterion}), batches)
    assert found.removal.depths == (Depth("transformer.h", (0, 1, 3), 4),)


def test_excluded_blocks_stay_in_every_round_under_whatever_number() -> None:
    model = make("bert", layers=6)
    rows = [{"match": "bert.encoder.layer.[14].*", "set": {"exclude": True}}]
    groups = find_removable(model, read_structure(structure(layers=rows)), inputs("bert"))
    assert [(group.name, group.units, group.why_not) for group in groups] == [
        ("bert.encoder.layer", 4, None),
        ("bert.encoder.layer[1]", 2, "is excluded by the recipe"),
    ]
    small = copy.deepcopy(model)
    remove(small, Removal({}, {}, (Depth("bert.encoder.layer", (1, 4), 6),)))
    found = shrink(model, structure(count(small), rounds=3, max_fraction=1.0, layers=rows), data("bert"))
    assert found.removal.depths == (Depth("bert.encoder.layer", (1, 4), 6),)
    assert torch.equal(run(model, inputs("bert")), run(small, inputs("bert")))


def test_max_fraction_bounds_what_goes_over_all_rounds() -> None:
    model = make("bert", layers=6)
    with pytest.raises(UnreachableTarget):
        shrink(model, structure(1, rounds=2, max_fraction=0.5), data("bert"))
    model = make("bert", layers=6)
    least = copy.deepcopy(model)
    remove(least, Removal({}, {}, (Depth("bert.encoder.layer", (0, 1, 2), 6),)))
    found = shrink(model, structure(count(least), rounds=2, max_fraction=0.5), data("bert"))
    assert len(found.removal.depths[0].kept) == 3


def test_one_block_of_a_stack_stays() -> None:
    model = make("bert", layers=3)
    with pytest.raises(UnreachableTarget):
        shrink(model, structure(1, max_fraction=1.0), data("bert"))
    single = make("bert", layers=1)
    with pytest.raises(NothingToPrune, match="is the only one of its kind there"):
        shrink(single, structure(1), data("bert"))


@pytest.mark.parametrize("metric", ["parameters", "macs", "size_bytes"])
def test_the_fewest_blocks_go_with_which_the_target_is_met(metric: str) -> None:
    model = make("bert", layers=5)
    whole = shrink(copy.deepcopy(model), structure(target={"metric": metric, "value": 1e12}), data("bert"))
    limit = 0.7 * whole.before
    found = shrink(model, structure(target={"metric": metric, "value": limit}), data("bert"))
    probes = {probe.removed: probe.value for probe in found.probes[0]}
    gone = len(found.removal.depths[0].gone)
    assert probes[gone] == found.after <= limit < probes[gone - 1]


def test_the_most_blocks_go_that_a_measured_drop_allows() -> None:
    model = make("bert", layers=5)
    target = {"metric": "accuracy_drop", "value": 2}
    measures = {"accuracy_drop": lambda one: 5.0 - len(one.get_submodule("bert.encoder.layer"))}
    found = shrink(model, structure(target=target), data("bert"), measures=measures)
    assert (len(found.removal.depths[0].kept), found.after) == (3, 2.0)


def test_residual_blocks_of_a_network_without_a_family_go_where_they_leave_the_shape() -> None:
    model = resnet()
    dense = copy.deepcopy(model)
    groups = find_removable(model, read_structure(structure()), IMAGES[0][0])
    assert {group.name: group.units for group in groups if group.is_removable} == {
        "layer1": 3, "layer2": 2, "layer3": 2,
    }  # fmt: skip
    (reason,) = (group.why_not for group in groups if group.name == "layer2[0]")
    assert "makes hidden states of the shape (2, 32, 8, 8) of those of (2, 16, 16, 16)" in str(reason)
    found = shrink(model, structure(0.7 * count(model), criterion={"name": "block_influence"}), IMAGES)
    assert compare(dense, found.removal, lambda one: one(IMAGES[0][0])) <= TOLERANCE
    assert found.after == count(model) <= 0.7 * found.before


class Tapped(nn.Module):
    """A stack of residual blocks whose numbers matter to the code around them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Residual() for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        taps = []
        for block in self.blocks:
            x = block(x)
            taps.append(x)
        return x + taps[1]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


def test_blocks_whose_numbers_the_code_reads_are_found_by_trying() -> None:
    model = Tapped()
    draw_weights(model)
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    groups = find_removable(model, read_structure(structure()), x)
    free = next(group for group in groups if group.is_removable)
    assert free.cuts[0].index.tolist() == [[2], [3]]
    assert [group.why_not for group in groups if not group.is_removable] != []
    for group in groups:
        if not group.is_removable:
            assert "does not stand alone: without the block outputs differ" in str(group.why_not)


class Counted(Tapped):
    """A stack whose code does something else once it is short."""

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if len(self.blocks) > 2 else 2 * x


def test_blocks_that_do_not_go_together_end_the_cut_before_it_counts() -> None:
    model = Counted()
    draw_weights(model)
    batches = [(torch.randn(2, 6, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 1]))]
    with pytest.raises(MaskMismatch, match=r"may go by itself, not all of them together"):
        shrink(model, structure(0.5 * count(model)), batches)
    assert len(model.blocks) == 4


def test_block_influence_is_one_minus_the_mean_cosine_of_what_is_no_padding() -> None:
    model = make("bert", layers=3)
    given = inputs("bert")
    states = model(**given, output_hidden_states=True).hidden_states
    real = given["attention_mask"].bool()
    cosines = [
        functional.cosine_similarity(before, after, dim=-1)[real].mean().item()
        for before, after in itertools.pairwise(states)
    ]
    order = sorted(range(3), key=lambda number: -cosines[number])
    for most in (1, 2):
        shrunk = shrink(
            copy.deepcopy(model),
            structure(count(model) - (most - 1) * _block(model) - 1, criterion={"name": "block_influence"}),
            [(given, torch.tensor([0, 1]))],
        )
        assert set(shrunk.removal.depths[0].gone) == set(order[:most])


def test_block_loss_is_the_rise_of_the_mean_loss_without_the_block() -> None:
    model = make("bert", layers=3)
    # Batches of two sizes: it is the mean over samples, not over batches.
    given = inputs("bert")
    batches = [
        (given, torch.tensor([0, 1])),
        ({name: tensor[:1] for name, tensor in given.items()}, torch.tensor([2])),
    ]
    rises = []
    for gone in range(3):
        cut = copy.deepcopy(model)
        remove(cut, Removal({}, {}, (Depth(STACK, tuple({0, 1, 2} - {gone}), 3),)))
        with torch.no_grad():
            losses = [
                functional.cross_entropy(run(one, given), labels, reduction="sum").item()
                - functional.cross_entropy(run(model, given), labels, reduction="sum").item()
                for one in [cut]
                for given, labels in batches
            ]
        rises.append(sum(losses) / 3)
    groups = find_removable(model, read_structure(structure()), given)
    criterion = build_block_criterion(Choice(name="block_loss"))
    before = describe(model)
    (scores,) = score_blocks(model, groups, criterion, Calibration(batches)).values()
    assert scores.tolist() == pytest.approx(rises, abs=1e-5)
    assert describe(model) == before


def test_criteria_of_blocks_need_data() -> None:
    model = make("bert", layers=3)
    groups = find_removable(model, read_structure(structure()), inputs("bert"))
    for name in entries("block_criterion"):
        with pytest.raises(MissingData):
            score_blocks(model, groups, build_block_criterion(Choice(name=name)), Calibration())


def _block(model: nn.Module) -> int:
    return count(model.get_submodule("bert.encoder.layer.0"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kinds": ["block", "head"]}, r"expected kinds \['block'\], found \['block', 'head'\]"),
        ({"layers": [{"match": "*", "set": {"max_sparsity": 0.5}}]}, "expected rows that set exclude"),
    ],
)
def test_a_structure_that_blocks_do_not_fit_is_refused_with_what_was_expected(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRecipe, match=said):
        read_structure(structure(**given))


def test_kinds_are_what_they_were_where_nobody_asks_for_blocks() -> None:
    assert "block" not in Structure.model_validate({"target": {"metric": "macs", "value": 1}}).kinds


@pytest.mark.parametrize(("criterion", "error"), [("movement", NeedsTraining), ("nobody", UnknownPlugin)])
def test_a_criterion_that_cannot_score_blocks_is_refused(criterion: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        shrink(make("bert"), structure(1, criterion={"name": criterion}), data("bert"))


def test_block_influence_is_no_criterion_of_weights() -> None:
    given = {"target": {"metric": "macs", "value": 1}, "criterion": {"name": "block_influence"}}
    with pytest.raises(UnknownPlugin, match="scores whole blocks"):
        shrink(make("bert"), given, data("bert"))


def test_a_row_that_matches_nothing_is_refused() -> None:
    rows = [{"match": "bert.encoder.layer.9.*", "set": {"exclude": True}}]
    with pytest.raises(NoMatch):
        shrink(make("bert"), structure(1, layers=rows), data("bert"))


def test_a_model_without_stacks_says_so() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))
    with pytest.raises(NothingToPrune, match="no list of blocks"):
        shrink(model, structure(1), [(torch.randn(4, 64), torch.arange(4))])


def test_every_family_declares_its_stacks() -> None:
    for name in FAMILIES:
        family = find_family(make(name))
        assert family is not None
        assert family.layers
