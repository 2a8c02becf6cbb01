"""Every criterion through `prune`: exact counts, and the weights that sparsegpt updates."""

import copy

import pytest
import torch

from tests.worker.pruning.criteria.test_laws import VARIANTS
from tests.worker.pruning.criteria.tiny import images, net
from tests.worker.pruning.loop import prune_any
from worker.pruning import prune
from worker.pruning.registry import Plugin, entries
from worker.pruning.statistics import reads_of


def _recipe(criterion: Plugin, pattern: str, sparsity: float) -> dict[str, object]:
    name = next(entry.name for entry in entries("criterion").values() if entry.cls is type(criterion))
    excluded = ["head"] if "batchnorm_scale" in reads_of(criterion) else []
    return {
        "criterion": {"name": name, "params": criterion.model_dump()},
        "pattern": {"name": pattern},
        "allocation": {"name": "uniform"},
        "target": {"value": sparsity},
        "layers": [{"match": glob, "set": {"exclude": True}} for glob in excluded],
    }


@pytest.mark.parametrize("criterion", VARIANTS, ids=repr)
def test_exactly_the_asked_count_is_pruned(criterion):
    model = net()
    masks = prune_any(model, _recipe(criterion, "unstructured", 0.5), images(5, 3))
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.5 * total)
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()


def test_sparsegpt_makes_up_for_what_is_pruned_and_others_leave_the_rest_alone():
    dense = net()
    for name in ("sparsegpt", "wanda"):
        model = copy.deepcopy(dense)
        criterion = entries("criterion")[name].cls()
        masks = prune(model, _recipe(criterion, "unstructured", 0.5), images(5, 3))
        kept = [
            torch.equal(model.get_parameter(n)[mask], dense.get_parameter(n)[mask])
            for n, mask in masks.items()
        ]
        assert all(kept) == (name == "wanda")


def test_sparsegpt_changes_what_a_layer_gives_less_than_pruning_alone_does():
    dense, (noise, labels) = net(), images(40)[0]
    # Pixels like their neighbours, as in pictures: of noise, no pixel can make up for another.
    x = torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1)
    pruned, updated = copy.deepcopy(dense), copy.deepcopy(dense)
    recipe = _recipe(entries("criterion")["sparsegpt"].cls(), "unstructured", 0.5)
    masks = prune(updated, recipe, [(x, labels)])
    with torch.no_grad():
        pruned.conv.weight.mul_(masks["conv.weight"])
        # Both share their input, the images; the bias cancels in the difference.
        error = [(model.conv(x) - dense.conv(x)).square().mean() for model in (pruned, updated)]
    assert error[1] < 0.8 * error[0]
