"""Laws that every registered criterion keeps."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.criteria.tiny import BEHIND_BATCHNORM, LAYERS, images, net
from tests.worker.pruning.loop import learn_scores
from worker.pruning.errors import MissingData
from worker.pruning.protocols import LearnsScores
from worker.pruning.registry import Plugin, entries
from worker.pruning.statistics import Calibration, gather, reads_of


def _variants() -> Iterator[Plugin]:
    """Yield every criterion with every combination of its options that are lists of choices."""
    for entry in entries("criterion").values():
        choices = {
            name: field["enum"]
            for name, field in entry.cls.model_json_schema().get("properties", {}).items()
            if "enum" in field
        }
        for combination in itertools.product(*choices.values()):
            yield entry.cls(**dict(zip(choices, combination, strict=True)))


VARIANTS = list(_variants())
every_variant = pytest.mark.parametrize("criterion", VARIANTS, ids=repr)


def _layers(criterion: Plugin) -> tuple[str, ...]:
    return BEHIND_BATCHNORM if "batchnorm_scale" in reads_of(criterion) else LAYERS


def _scores(
    model: nn.Module, criterion: Plugin, *, seed: int = 0, reverse: bool = False
) -> dict[str, Tensor]:
    names = _layers(criterion)[:: -1 if reverse else 1]
    dtype = next(model.parameters()).dtype
    data = [(x.to(dtype), y) for x, y in images(5, 3)]
    found = gather(model, names, criterion=criterion, calibration=Calibration(data=data, seed=seed))
    if isinstance(criterion, LearnsScores):
        learned = learn_scores(model, names, criterion, data)
        found = {name: replace(one, learned_scores=learned[name]) for name, one in found.items()}
    return {name: criterion.score(model.get_parameter(name), found[name]) for name in names}


def test_all_criteria_of_the_library_are_registered():
    assert set(entries("criterion")) >= {
        "activation", "bn_scale", "fisher", "fpgm", "gradient", "grasp", "magnitude", "movement",
        "movement_soft", "obd", "random", "snip", "sparsegpt", "synflow", "taylor", "wanda",
    }  # fmt: skip


@pytest.mark.parametrize("entry", entries("criterion").values(), ids=lambda entry: entry.name)
def test_a_criterion_tells_its_summary_its_source_and_its_needs(entry):
    assert entry.summary.endswith(".")
    assert len(entry.summary) < 110
    assert any(character.isdigit() for character in entry.source)
    assert entry.needs
    assert set(entry.needs) <= {"weights", "gradients", "activations", "training"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_variant
def test_scores_are_finite_float32_of_the_weights_shape(criterion, dtype):
    model = net().to(dtype)
    for name, scores in _scores(model, criterion).items():
        assert scores.dtype == torch.float32
        assert scores.shape == model.get_parameter(name).shape
        assert torch.isfinite(scores).all()
        assert not scores.requires_grad


@every_variant
def test_scores_tell_weights_apart(criterion):
    for scores in _scores(net(), criterion).values():
        assert scores.unique().numel() > 1


@every_variant
def test_the_same_seed_gives_the_same_scores_in_any_order_of_layers(criterion):
    first = _scores(net(), criterion, seed=3)
    again = _scores(net(), criterion, seed=3, reverse=True)
    for name in first:
        assert torch.equal(first[name], again[name])


@every_variant
def test_scoring_leaves_the_model_as_it_was(criterion):
    model = net()
    model.train()
    model.bn2.eval()
    model.head.weight.requires_grad_(False)
    model.conv.weight.grad = torch.full_like(model.conv.weight, 7.0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}

    _scores(model, criterion)

    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.weight"]
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["conv.weight"]
    assert bool((model.conv.weight.grad == 7.0).all())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@every_variant
def test_a_criterion_that_needs_gradients_or_activations_refuses_to_go_without_data(criterion):
    entry = next(entry for entry in entries("criterion").values() if entry.cls is type(criterion))
    needs_data = bool({"gradients", "activations"} & set(entry.needs))
    if needs_data:
        with pytest.raises(MissingData, match="needs data"):
            gather(net(), _layers(criterion), criterion=criterion)
    else:
        found = gather(net(), _layers(criterion), criterion=criterion)
        assert set(found) == set(_layers(criterion))


@every_variant
def test_scoring_works_where_gradients_are_off(criterion):
    expected = _scores(net(), criterion)
    with torch.no_grad():
        actual = _scores(net(), criterion)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
