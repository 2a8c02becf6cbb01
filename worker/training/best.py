"""Keep the weights of the best evaluation beside those that go on training."""

import torch
from torch import Tensor, nn

from worker.pruning import MaskSet
from worker.pruning.masks import pack, unpack
from worker.training.checkpoint import Tree


@torch.no_grad()
def dump_best(module: nn.Module, masks: MaskSet) -> Tree:
    """Return copies of a model's weights and buffers, and of its masks, bit-packed."""
    return {
        "module": {name: value.clone() for name, value in module.state_dict().items()},
        "masks": pack_masks(masks),
    }


@torch.no_grad()
def load_best(module: nn.Module, state: Tree, *, like: MaskSet) -> MaskSet:
    """Put the weights back and return their masks, which have the shapes and devices of `like`."""
    module.load_state_dict(state["module"])
    return MaskSet(
        {
            name: unpack(state["masks"][name].numpy().tobytes(), tuple(mask.shape)).to(mask.device)
            for name, mask in like.items()
        }
    )


def pack_masks(masks: MaskSet) -> dict[str, Tensor]:
    """Return each mask as uint8, one bit a weight, as a pruner's state holds them."""
    return {name: torch.frombuffer(bytearray(pack(mask)), dtype=torch.uint8) for name, mask in masks.items()}
