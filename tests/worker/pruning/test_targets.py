"""Targets of every metric: met exactly, or an error that names the nearest reachable value."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.worker.pruning.networks import ConvNet, batches, fill
from worker.pruning import MaskSet, Measured, Pruner, prune
from worker.pruning.errors import MissingData, UnreachableTarget, UnsupportedTarget
from worker.pruning.statistics import LayerNeverRan

MACS = {"conv1.weight": 36 * 288, "conv2.weight": 16 * 288, "fc1.weight": 128, "fc2.weight": 64}
PARAMETERS = 288 + 8 + 16 + 288 + 8 + 16 + 128 + 16 + 64 + 4


def network(seed: int = 0) -> ConvNet:
    model = ConvNet().eval()
    fill(model, seed, tied=False)
    return model


def reach(metric: str, value: float, **changes: object) -> MaskSet:
    model = network()
    return prune(model, {"target": {"metric": metric, "value": value}, **changes}, batches(model))


def pruned(masks: MaskSet) -> int:
    return masks.numel - masks.kept


def macs_of(masks: MaskSet) -> float:
    return sum(MACS[name] * float(mask.float().mean()) for name, mask in masks.items())


@pytest.mark.parametrize("sparsity", [0.0, 1 / 768, 0.1, 0.5, 0.6999, 0.7])
def test_a_sparsity_counts_to_the_nearest_weight(sparsity: float) -> None:
    assert pruned(reach("sparsity", sparsity)) == round(sparsity * 768)


@pytest.mark.parametrize(("weights", "zeros"), [(10, 2), (6, 2)])
def test_a_half_is_rounded_to_even(weights: int, zeros: int) -> None:
    # 0.25 of 10 is 2.5 and of 6 is 1.5: both go to 2.
    assert pruned(prune(nn.Linear(weights, 1), {"target": {"value": 0.25}})) == zeros


@settings(max_examples=20, deadline=None)
@given(st.integers(PARAMETERS - 760, PARAMETERS))
def test_a_number_of_parameters_is_met_to_the_last_one(value: int) -> None:
    assert PARAMETERS - pruned(reach("parameters", value)) == value


def test_more_parameters_than_there_are_need_no_pruning() -> None:
    assert reach("parameters", 10**9).sparsity == 0.0


def test_too_few_parameters_name_the_fewest_that_can_be() -> None:
    # Every one of the four layers keeps a weight, and what is not a weight stays.
    with pytest.raises(UnreachableTarget, match="asked for parameters 10, the nearest reachable is 72"):
        reach("parameters", 10)


@pytest.mark.parametrize("fraction", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_macs_counted_from_data_are_met_with_the_fewest_zeros(fraction: float, allocation: str) -> None:
    value = fraction * sum(MACS.values())
    masks = reach("macs", value, allocation={"name": allocation})
    assert value - max(36, 16) < macs_of(masks) <= value


@pytest.mark.parametrize("excluded", ["conv2", "fc1"])
def test_layers_that_are_not_pruned_count_among_the_macs_that_may_not_be_exceeded(excluded: str) -> None:
    value = 0.6 * sum(MACS.values())
    masks = reach("macs", value, layers=[{"match": excluded, "set": {"exclude": True}}])
    assert value - 36 < macs_of(masks) + MACS[f"{excluded}.weight"] <= value


def test_a_compiled_model_that_has_run_counts_as_its_own() -> None:
    model = network()
    compiled = torch.compile(model, backend="eager")
    data = batches(model)
    with torch.no_grad():
        compiled(data[0][0][:1])
    value = 0.5 * sum(MACS.values())
    masks = prune(compiled, {"target": {"metric": "macs", "value": value}}, data)
    plain = reach("macs", value)
    assert {name.removeprefix("_orig_mod."): mask for name, mask in masks.items()}.keys() == plain.keys()
    assert all(torch.equal(masks[f"_orig_mod.{name}"], mask) for name, mask in plain.items())


def test_macs_of_a_layer_that_is_never_called_are_not_taken_for_none() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    recipe = {"target": {"metric": "macs", "value": 100}}
    with pytest.raises(LayerNeverRan, match=r"self_attn\.out_proj\.weight: .*exclude it in the recipe"):
        prune(model, recipe, [(torch.randn(2, 3, 8), torch.zeros(2))])


class _Tied(nn.Module):
    """Multiplies by its embedding at the end, and by no weight at all in between."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 6), nn.Linear(6, 20, bias=False)
        self.between = nn.Linear(6, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states = self.between(self.embedding(ids))
        return self.head(states @ states.transpose(1, 2) @ states)


def test_products_of_tied_weights_and_of_no_weight_are_counted() -> None:
    data = [(torch.randint(0, 20, (2, 5)), torch.randint(0, 20, (2, 5)))]
    # Five tokens: 36 products each between, 120 each at the head; twice 5 x 5 x 6 in between.
    total = 5 * (36 + 120) + 2 * 150
    model = _Tied()
    masks = prune(model, {"target": {"metric": "macs", "value": total - 90}}, data)
    assert masks.kept == masks.numel - 18
    with pytest.raises(UnreachableTarget, match=f"nearest reachable is {total - 180 + 5}"):
        prune(_Tied(), {"target": {"metric": "macs", "value": 5 * 36}}, data)


def test_given_macs_need_no_data() -> None:
    measured = Measured(macs={**MACS, "conv1.weight": 0})
    value = 0.5 * (16 * 288 + 192)
    masks = prune(network(), {"target": {"metric": "macs", "value": value}}, measured=measured)
    assert macs_of(masks) - 36 * 288 * float(masks["conv1.weight"].float().mean()) <= value


def test_macs_without_data_say_what_is_needed() -> None:
    with pytest.raises(MissingData, match="a target of macs needs data"):
        prune(network(), {"target": {"metric": "macs", "value": 10}})
    with pytest.raises(MissingData, match=r"needs those of conv2\.weight"):
        prune(
            network(),
            {"target": {"metric": "macs", "value": 10}},
            measured=Measured(macs={"conv1.weight": 1}),
        )


def test_bytes_of_single_weights_include_a_bit_for_each_place() -> None:
    # 4 bytes a parameter, the BatchNorms' statistics (32 floats, 2 counters of 8 bytes), 96 bytes of bits.
    dense = 4 * PARAMETERS + 4 * 32 + 16
    masks = reach("size_bytes", dense - 1000)
    assert pruned(masks) == (1000 + 96) / 4


def test_bytes_of_structured_patterns_need_no_bits() -> None:
    dense = 4 * PARAMETERS + 4 * 32 + 16
    masks = reach("size_bytes", dense - 4 * 36, pattern={"name": "filter"})
    assert pruned(masks) == 36


def test_bytes_follow_the_dtype() -> None:
    model = nn.Linear(100, 10, bias=False).half()
    masks = prune(model, {"target": {"metric": "size_bytes", "value": 1125}})
    assert masks.kept == 500  # 2 bytes each, and 125 bytes of bits


def test_a_size_already_met_prunes_nothing() -> None:
    assert reach("size_bytes", 10**9).sparsity == 0.0


def test_a_size_under_the_smallest_names_it() -> None:
    with pytest.raises(UnreachableTarget, match="asked for size_bytes 1, the nearest reachable is 528"):
        reach("size_bytes", 1)


@pytest.mark.parametrize("metric", ["latency_ms", "accuracy_drop"])
def test_what_has_to_be_measured_is_refused_with_a_way_out(metric: str) -> None:
    with pytest.raises(UnsupportedTarget, match="search over sparsity outside"):
        reach(metric, 0.5)


@pytest.mark.parametrize("metric", ["parameters", "macs", "size_bytes"])
def test_a_gradual_schedule_comes_to_the_same_size(metric: str) -> None:
    value = {"parameters": 400, "macs": 7000, "size_bytes": 2000}[metric]
    model = network()
    target = {"target": {"metric": metric, "value": value}}
    pruner = Pruner(model, {**target, "schedule": {"name": "cubic"}}, batches(model))
    for step in range(5):
        masks = pruner.update(step / 4)
    assert masks == reach(metric, value)


def test_a_tied_weight_counts_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(10, 10, bias=False), "b": nn.Linear(10, 10, bias=False)})
    model["b"].weight = model["a"].weight
    masks = prune(model, {"target": {"metric": "parameters", "value": 30}})
    assert masks.kept == 30
    assert model["b"].weight is model["a"].weight
    assert torch.count_nonzero(model["b"].weight) == 30
