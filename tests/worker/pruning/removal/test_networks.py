"""Channels, neurons and heads removed from every built-in architecture: the same outputs as masked."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.worker.models.tiny import make_tiny
from tests.worker.pruning.removal.drawing import difference, draw_weights, find_and_prove, halve
from worker.models.registry import architectures, build
from worker.pruning.removal.surgery import masked, remove
from worker.pruning.removal.tracer import OUTPUT

SIZES = {"lenet-300-100": {}, "vit-small-images": {}, "resnet8x8": {}}


def network(name: str) -> tuple[nn.Module, Tensor]:
    params = (
        {}
        if name in SIZES or (name.startswith("resnet-") and name[7:] in ("20", "32", "44", "56"))
        else {"image_size": 64}
    )
    built = build(make_tiny(name, **params))
    draw_weights(built.module)
    shape = built.inputs.blank(2, torch.device("cpu")).shape
    return built.module, torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", sorted(architectures()))
def test_a_masked_and_a_removed_network_agree_and_the_removed_one_is_whole(name: str) -> None:
    model, x = network(name)
    groups = find_and_prove(model, x)
    assert any(group.is_removable for group in groups)
    assert all(OUTPUT in str(group.why_not) for group in groups[-1:])
    removal = halve(model, groups)
    assert difference(model, removal, x) <= 1e-5

    dense = copy.deepcopy(model)
    with torch.no_grad(), masked(model, removal):
        expected = model(x)
    before = sum(parameter.numel() for parameter in model.parameters())
    remove(model, removal)
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.7 * before
    with torch.no_grad():
        found, unpruned = model(x), dense(x)
    assert torch.allclose(found, expected, atol=1e-5 * max(1.0, float(expected.abs().max())))
    # Otherwise the comparison above would say nothing.
    assert not torch.allclose(found, unpruned, rtol=1e-2)
    assert torch.equal(found[:1].argmax(1), model(x[:1]).argmax(1))

    model.train()
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.shape == parameter.shape
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize(
    "name", ["resnet-18", "mobilenet-v2", "densenet-121", "efficientnet-b0", "resnet-20"]
)
def test_a_removed_convolutional_network_takes_images_of_another_size(name: str) -> None:
    model, x = network(name)
    removal = halve(model, find_and_prove(model, x))
    larger = torch.randn(3, 3, 96, 80, generator=torch.Generator().manual_seed(2))
    assert difference(model, removal, larger) <= 1e-5


def test_shortcuts_of_option_a_lose_their_zeros_on_either_side() -> None:
    model, x = network("resnet-20")
    groups = find_and_prove(model, x)
    # 16 channels of the first stage run through to the last; the zeros around them are others.
    stages = [group for group in groups if group.kind == "channel" and "conv2" in group.name]
    assert [group.units for group in stages] == [8, 8, 16, 16]
    removal = halve(model, groups)
    remove(model, removal)
    shortcut = model.get_submodule("layer2.0.shortcut")
    widths = [len(model.get_submodule(f"layer{stage}.0.bn2").weight) for stage in (1, 2)]  # type: ignore[arg-type]
    assert shortcut.channels_before + shortcut.channels_after == widths[1] - widths[0]


def test_depthwise_convolutions_keep_one_group_for_each_channel() -> None:
    model, x = network("mobilenet-v2")
    remove(model, halve(model, find_and_prove(model, x)))
    depthwise = [one for one in model.modules() if isinstance(one, nn.Conv2d) and one.groups > 1]
    assert depthwise
    for layer in depthwise:
        assert layer.groups == layer.in_channels == layer.out_channels == layer.weight.shape[0]
