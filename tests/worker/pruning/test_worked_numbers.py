"""The numbers that everybody can check by hand: small weights go, masks apply, combine and update."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from worker.pruning import MaskSet, Pruner, prune
from worker.pruning.criteria.magnitude import Magnitude
from worker.pruning.errors import MaskMismatch, MissingData
from worker.pruning.registry import entries
from worker.pruning.statistics import LayerStatistics

SMALL_AND_LARGE = torch.tensor([[0.1, 0.9], [0.2, 0.8]])


def linear(weight: Tensor) -> nn.Linear:
    model = nn.Linear(*reversed(weight.shape), bias=False)
    model.weight.data = weight.clone()
    return model


def half(**more: object) -> dict[str, object]:
    return {"target": {"value": 0.5}, **more}


def test_magnitude_prunes_the_smaller_half() -> None:
    model = linear(SMALL_AND_LARGE)
    masks = prune(model, half())
    assert masks.sparsity == 0.5
    assert torch.equal(model.weight, torch.tensor([[0.0, 0.9], [0.0, 0.8]]))


def test_magnitude_scores_are_absolute_values() -> None:
    scores = Magnitude().score(-SMALL_AND_LARGE, LayerStatistics("weight"))
    assert torch.equal(scores, SMALL_AND_LARGE)


@pytest.mark.parametrize(("p", "expected"), [(1.0, 0.4), (2.0, 0.16), (0.5, 0.4**0.5)])
def test_magnitude_to_any_power(p: float, expected: float) -> None:
    scores = Magnitude(p=p).score(torch.tensor([-0.4]), LayerStatistics("weight"))
    assert scores.item() == pytest.approx(expected)


def test_a_neurons_score_is_its_mean_magnitude_and_with_p_two_its_mean_square() -> None:
    # Means 2 and 2.2, mean squares 8 and 4.84: the one is lower by p = 1, the other by p = 2.
    weight = torch.tensor([[0.0, 4.0, 0.0, 4.0], [2.2, 2.2, 2.2, 2.2]])
    for p, kept in ((1, [0, 1]), (2, [1, 0])):
        criterion = {"name": "magnitude", "params": {"p": p}}
        masks = prune(linear(weight), half(criterion=criterion, pattern={"name": "neuron"}))
        assert masks["weight"].any(dim=1).long().tolist() == kept


def test_single_weights_of_two_layers_compare_by_their_power_too() -> None:
    # Over the mean square of its layer, 39 and 40.5, a 5 of the one is 0.64 and the 4 of the other 0.40; over
    # the mean magnitude, 6 and 4.5, they would be 0.83 and 0.89.
    model = nn.ModuleDict(
        {
            "a": linear(torch.tensor([[5.0, 5.0, 5.0, 9.0]])),
            "b": linear(torch.tensor([[4.0, 1.0, 1.0, 12.0]])),
        }
    )
    recipe = {
        "criterion": {"name": "magnitude", "params": {"p": 2}},
        "allocation": {"name": "global", "params": {"normalisation": "mean"}},
        "target": {"value": 3 / 8},
    }
    masks = prune(model, recipe)
    assert masks["a.weight"].all()
    assert masks["b.weight"].tolist() == [[False, False, False, True]]


def test_neurons_of_one_weight_compare_with_wider_ones_by_their_power_too() -> None:
    # Mean squares: 0.01, 0.04, 0.09, 0.16 of single weights; 0.0225, 0.0256, 0.0625, 0.25 of four equal ones.
    # Of 20 weights 9 are asked for: three neurons are 1 + 4 + 4.
    narrow, wide = [0.1, 0.2, 0.3, 0.4], [0.15, 0.16, 0.25, 0.5]
    model = nn.Sequential(
        linear(torch.tensor(narrow)[:, None]), linear(torch.tensor(wide)[:, None].repeat(1, 4))
    )
    recipe = {
        "criterion": {"name": "magnitude", "params": {"p": 2}},
        "pattern": {"name": "neuron"},
        "target": {"value": 0.45},
    }
    masks = prune(model, recipe)
    assert masks["0.weight"][:, 0].tolist() == [False, True, True, True]
    assert masks["1.weight"][:, 0].tolist() == [False, False, True, True]


def test_what_reads_gradients_says_so_and_refuses_to_go_without() -> None:
    for name in ("gradient", "taylor", "snip"):
        assert "gradients" in entries("criterion")[name].needs
        with pytest.raises(MissingData):
            prune(linear(SMALL_AND_LARGE), half(criterion={"name": name}))


def test_of_equal_weights_those_with_small_gradients_go() -> None:
    # One sample of two positions, the identity: the output is the weight's transpose, the loss its product
    # with the gradients that are wanted.
    gradients = torch.tensor([[0.01, 1.0], [0.02, 0.9]])
    model = linear(torch.full((2, 2), 0.5))
    data = [(torch.eye(2)[None], torch.zeros(1))]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[0].t() * gradients).sum()

    masks = prune(model, half(criterion={"name": "taylor", "params": {}}), data, loss)
    assert torch.equal(model.weight, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))
    assert masks["weight"].long().tolist() == [[0, 1], [0, 1]]


def test_a_ticket_has_its_initial_weights_where_its_trained_ones_were_largest() -> None:
    # Found on the trained weights 0.5 .. 0.8, rewound to the initial 0.1 .. 0.4.
    initial = linear(torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    trained = linear(torch.tensor([[0.5, 0.6], [0.7, 0.8]]))
    masks = prune(trained, half())
    masks.apply(initial)
    assert torch.equal(initial.weight, torch.tensor([[0.0, 0.0], [0.3, 0.4]]))


def test_whole_neurons_go_and_the_others_stay_untouched() -> None:
    # Four neurons of three inputs, weak, strong, weak, strong; here neurons are rows.
    weight = torch.tensor([[0.1] * 3, [0.9] * 3, [0.2] * 3, [0.8] * 3])
    model = linear(weight)
    prune(model, half(pattern={"name": "neuron"}))
    assert not model.weight[[0, 2]].any()
    assert torch.equal(model.weight[[1, 3]], weight[[1, 3]])


def test_two_masks_keep_what_both_keep() -> None:
    one = MaskSet({"w": torch.tensor([[True, False], [True, True]])})
    two = MaskSet({"w": torch.tensor([[True, True], [False, True]])})
    both = one & two
    assert both.masked("w", torch.ones(2, 2)).tolist() == [[1, 0], [0, 1]]
    assert both.sparsity == 0.5
    assert one.overlap(two) == 0.5


def test_a_new_mask_keeps_everything_and_an_update_replaces_it() -> None:
    masks = Pruner(linear(SMALL_AND_LARGE), half()).masks
    assert masks.sparsity == 0.0
    kept = torch.tensor([[True, False], [False, True]])
    assert torch.equal(masks.updated("weight", kept)["weight"], kept)
    assert masks["weight"].all()


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 4), (5, 4, 3, 3), (2, 2, 2, 2, 2)])
def test_a_mask_applies_to_tensors_of_any_rank(shape: tuple[int, ...]) -> None:
    mask = torch.arange(torch.Size(shape).numel()).reshape(shape) % 2 == 0
    masks = MaskSet({"w": mask})
    weight = torch.full(shape, 3.0)
    assert torch.equal(masks.masked("w", weight), 3.0 * mask)
    assert weight.all()


def test_a_mask_of_another_shape_is_refused() -> None:
    masks = MaskSet({"w": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(MaskMismatch, match=r"\(2, 2\), the tensor has \(2, 3\)"):
        masks.masked("w", torch.ones(2, 3))
    with pytest.raises(MaskMismatch, match=r"\(2, 2\), the tensor has \(4,\)"):
        masks & MaskSet({"w": torch.ones(4, dtype=torch.bool)})


@pytest.mark.parametrize("pattern", ["filter", "channel"])
def test_filters_and_channels_of_a_convolution_go_as_a_whole(pattern: str) -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(4, 4, 3, bias=False)
    prune(model, half(pattern={"name": pattern}))
    norms = model.weight.flatten(2).norm(dim=2)  # [out, in]
    assert (norms.sum(dim=1 if pattern == "filter" else 0) == 0).sum() == 2


def test_ten_rounds_prune_a_tenth_more_each() -> None:
    torch.manual_seed(0)
    model = nn.Linear(20, 20)
    pruner = Pruner(model, {"target": {"value": 0.9}, "schedule": {"name": "linear"}})
    found = [pruner.update(step / 9).sparsity for step in range(10)]
    assert found == pytest.approx([0.1 * step for step in range(10)])


def test_five_rounds_of_equal_shares_reach_the_target() -> None:
    # Each prunes 1 - (1 - 0.7)^(1/5) = 21.4 % of what is left; all together 70 %.
    pruner = Pruner(nn.Linear(100, 100), {"target": {"value": 0.7}, "schedule": {"name": "exponential"}})
    kept = [10_000] + [pruner.update(step / 5).kept for step in range(1, 6)]
    shares = [1 - after / before for before, after in itertools.pairwise(kept)]
    assert shares == pytest.approx([1 - 0.3**0.2] * 5, abs=0.001)
    assert kept[-1] == 3000


def test_a_whole_network_is_pruned_in_one_call() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    dense = copy.deepcopy(network)
    masks = prune(network, {"target": {"value": 0.7}, "allocation": {"name": "uniform"}})
    assert masks.sparsities() == pytest.approx({"0.weight": 0.7, "2.weight": 0.7}, abs=0.01)
    assert torch.equal(network[0].bias, dense[0].bias)
