"""How MobileNetV2 and EfficientNet round and scale their channels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import UnknownArchitecture
from worker.models.mobilenet_v2 import round_channels
from worker.models.registry import build


@given(st.floats(0.1, 1e5))
def test_channels_are_multiples_of_eight_near_what_was_asked_and_hardly_below(channels):
    rounded = round_channels(channels)
    assert rounded % 8 == 0
    assert rounded >= 8
    assert 0.9 * channels <= rounded <= max(8, channels + 8)


@pytest.mark.parametrize(("channels", "rounded"), [(32, 32), (33.6, 32), (11.2, 16), (44.8, 48), (1.6, 8)])
def test_channels_are_rounded_as_the_papers_do(channels, rounded):
    assert round_channels(channels) == rounded


@pytest.mark.parametrize(
    ("name", "params", "parameters"),
    [
        # What re-implementations with torchvision's rounding count; its head has 1,792 channels.
        ("mobilenet-v2", {"width": 1.4}, 6_108_776),
        # The counts of torchvision's B1 to B4.
        ("efficientnet-b0", {"width": 1.0, "depth": 1.1}, 7_794_184),
        ("efficientnet-b0", {"width": 1.1, "depth": 1.2}, 9_109_994),
        ("efficientnet-b0", {"width": 1.2, "depth": 1.4}, 12_233_232),
        ("efficientnet-b0", {"width": 1.4, "depth": 1.8}, 19_341_616),
    ],
)
def test_wider_and_deeper_ones_have_the_published_parameters(name, params, parameters):
    with torch.device("meta"):
        module = build({"name": name, "params": params}).module
    assert sum(p.numel() for p in module.parameters()) == parameters


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan"), 32, "1"])
def test_a_width_that_is_no_factor_is_refused(width):
    with pytest.raises(UnknownArchitecture, match="width"):
        build({"name": "mobilenet-v2", "params": {"width": width}})
