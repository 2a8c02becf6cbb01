"""What the blocks of a network put out, and how far a pruned network's are from the dense one's.

Jiao et al. 2020, TinyBERT, equation 8: the mean squared distance between hidden states. Here both models
have the same widths, so nothing is projected; and each block's distance is divided by the mean square of
the dense block's output, so that blocks count alike whatever their scale.
"""

from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from app.core.errors import InvalidSpec

_TINY = 1e-12


class HiddenStates:
    """Keeps the outputs of a module's blocks, in their order, for as long as it is entered."""

    def __init__(self, module: nn.Module) -> None:
        self.outputs: list[Tensor] = []
        self._blocks = find_blocks(module)
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "HiddenStates":
        self.outputs = []
        self._handles = [block.register_forward_hook(self._keep) for block in self._blocks]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _keep(self, block: nn.Module, inputs: object, output: object) -> None:
        # Blocks of transformers may return their attention beside the hidden state.
        first = output[0] if isinstance(output, tuple) else output
        if isinstance(first, Tensor):
            self.outputs.append(first)


def find_blocks(module: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks: the members of the module's outermost lists; without any, its own parts."""
    blocks = list(_members_of_lists(module))
    if not blocks:
        blocks = list(module.children())
    return [block for block in blocks if any(True for _ in block.parameters())]


def compute_distance(states: Sequence[Tensor], dense: Sequence[Tensor], token_mask: Tensor | None) -> Tensor:
    """Return the mean over blocks of the normalised squared distance, a scalar; padding does not count.

    `states` and `dense` are the outputs of the same blocks, [b, …]; `token_mask` is [b, t] for texts. Raises
    InvalidSpec where there are other blocks.
    """
    if len(states) != len(dense):
        raise InvalidSpec(
            "finetune.distillation.hidden_states compares what equal blocks put out: after the cut there are "
            f"{len(states)}, of {len(dense)} in the whole model; leave hidden_states out"
        )
    distances = [
        _compute_block_distance(one.float(), other.detach().float(), token_mask)
        for one, other in zip(states, dense, strict=True)
    ]
    return torch.stack(distances).mean()


def _compute_block_distance(state: Tensor, dense: Tensor, token_mask: Tensor | None) -> Tensor:
    if state.shape != dense.shape:
        raise InvalidSpec(
            "finetune.distillation.hidden_states compares what equal blocks put out: after the cut a block "
            f"puts out {list(state.shape)}, the whole model's {list(dense.shape)}; leave hidden_states out"
        )
    if token_mask is not None and state.shape[:2] == token_mask.shape:
        weight = token_mask.to(state.dtype).unsqueeze(-1)  # [b, t, 1]
        state, dense = state * weight, dense * weight
    # Both are sums over the same elements, so that their number cancels out.
    return functional.mse_loss(state, dense) / (dense.square().mean() + _TINY)


def _members_of_lists(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.ModuleList | nn.Sequential):
        return list(module)
    return [block for child in module.children() for block in _members_of_lists(child)]
