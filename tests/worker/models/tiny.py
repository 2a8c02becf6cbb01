"""Parameters that make the built-in architectures small enough to run in a test."""

from collections.abc import Mapping

from pydantic import JsonValue

TINY: Mapping[str, Mapping[str, JsonValue]] = {
    **{f"resnet-{depth}": {"width": 4} for depth in (18, 34, 50)},
    **{f"vgg-{depth}-bn": {"width": 4, "hidden": 16} for depth in (11, 16, 19)},
    "mobilenet-v2": {"width": 0.1},
    "densenet-121": {"growth_rate": 4, "init_features": 8, "blocks": [2, 3]},
    "efficientnet-b0": {"width": 0.1, "depth": 0.1},
}


def make_tiny(name: str, **params: JsonValue) -> dict[str, JsonValue]:
    """Return a small architecture of that name, as it is where it is small already."""
    return {"name": name, "params": {**TINY.get(name, {}), **params}}
