"""Inputs and outputs of layers, gathered by hooks over calibration batches: sums in float32 or wider.

Padding tokens (where the inputs hold an `attention_mask`) are left out. A convolution is the linear layer
over its unfolded input: one row per sample and position, one feature per channel and kernel offset.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.pruning.statistics.batchnorm import batchnorm_behind
from worker.pruning.statistics.calibration import Batch, run
from worker.pruning.statistics.layer import LayerNeverRan, Statistic, is_transposed
from worker.pruning.statistics.modules import check_has_activations, groups_of

ACTIVATIONS: frozenset[Statistic] = frozenset(
    {"input_norm", "input_gram", "output_magnitude", "output_zero_fraction"}
)

Owners = Mapping[str, tuple[nn.Module, ...]]

# Numbers of an unfolded input at once: a kernel of 3 x 3 makes nine of each.
_MOST_AT_ONCE = 2**26


@dataclass(frozen=True)
class _Call:
    """One call of a module; `mask` tells real tokens from padding, [batch, tokens]."""

    module: nn.Module
    input: Tensor
    output: Tensor
    mask: Tensor | None

    def windows(self) -> Iterator[Tensor]:
        """Yield the input without padding, [rows, groups, features], in pieces that fit into memory."""
        for piece in _cut(self.module, self._without_padding(self.input)):
            yield input_windows(self.module, piece)

    def units(self) -> Tensor:
        """Return the output without padding: [rows, out] float32."""
        output = self._without_padding(self.output)
        is_last = isinstance(self.module, nn.Linear) or is_transposed(self.module) or output.dim() == 2
        units = output if is_last else output.movedim(1, -1)
        return units.reshape(-1, units.shape[-1]).float()

    def _without_padding(self, values: Tensor) -> Tensor:
        # Only [batch, tokens, features] holds padding, or [batch · tokens, features], as some models lay it.
        if self.mask is None:
            return values
        if values.dim() == 3 and values.shape[:2] == self.mask.shape:
            return values[self.mask]
        if values.dim() == 2 and len(values) == self.mask.numel():
            return values[self.mask.reshape(-1)]
        return values


_Observer = Callable[[str, _Call], None]
_Measure = Callable[[_Call], tuple[Tensor, int]]


def gather_activations(
    model: nn.Module, layers: Owners, batches: Sequence[Batch], wanted: Collection[Statistic]
) -> dict[Statistic, dict[str, Tensor]]:
    """Gather the wanted activation statistics by statistic and parameter name, in one pass each.

    Raises UnsuitableLayer for a layer that is neither linear nor a convolution, LayerNeverRan for one that
    the forward pass does not call. Hooks are gone afterwards, also when the forward pass raises.
    """
    for name, modules in layers.items():
        for module in modules:
            check_has_activations(name, module)
    found: dict[Statistic, dict[str, Tensor]] = {}
    if "input_norm" in wanted:
        sums = _sum_over(model, layers, batches, _squared_inputs)
        found["input_norm"] = {
            name: _broadcastable(total.sqrt().float(), layers[name][0]) for name, (total, _) in sums.items()
        }
    if "input_gram" in wanted:
        found["input_gram"] = _means(_sum_over(model, layers, batches, _input_products))
    if "output_magnitude" in wanted:
        found["output_magnitude"] = _means(_sum_over(model, layers, batches, _output_magnitudes))
    if "output_zero_fraction" in wanted:
        behind = batchnorm_behind(model, layers, batches[0])
        places = {name: (behind[name],) if name in behind else own for name, own in layers.items()}
        found["output_zero_fraction"] = _means(_sum_over(model, places, batches, _output_zeros))
    return found


def _squared_inputs(call: _Call) -> tuple[Tensor, int]:
    total, rows = torch.zeros(()), 0
    for windows in call.windows():
        wide = torch.promote_types(windows.dtype, torch.float32)
        norms = torch.linalg.vector_norm(windows, dim=0, dtype=wide)  # [groups, features]
        total, rows = norms.double().square() + total.to(norms.device), rows + len(windows)
    return total, rows


def _input_products(call: _Call) -> tuple[Tensor, int]:
    total, rows = torch.zeros(()), 0
    for piece in call.windows():
        windows = piece.float().transpose(0, 1)  # [groups, rows, features]
        total = windows.transpose(1, 2) @ windows + total.to(windows.device)
        rows += windows.shape[1]
    return total, rows


def _output_magnitudes(call: _Call) -> tuple[Tensor, int]:
    units = call.units()
    return units.abs().sum(0).double(), len(units)


def _output_zeros(call: _Call) -> tuple[Tensor, int]:
    units = call.units()
    return (units <= 0).sum(0).double(), len(units)


def _sum_over(
    model: nn.Module, places: Owners, batches: Sequence[Batch], measure: _Measure
) -> dict[str, tuple[Tensor, int]]:
    """Sum what is measured at the modules of each name, and the rows behind it."""
    sums: dict[str, tuple[Tensor, int]] = {}

    def observe(name: str, call: _Call) -> None:
        total, rows = measure(call)
        if name in sums:
            total, rows = sums[name][0].add_(total), sums[name][1] + rows
        sums[name] = (total, rows)

    for batch in batches:
        with _hooked(places, batch.token_mask, observe):
            run(model, batch)
    for name in places:
        if name not in sums or sums[name][1] == 0:
            raise LayerNeverRan(
                f"{name}: the forward pass never calls this layer, so it has no activations: exclude it in "
                "the recipe"
            )
    return sums


def _means(sums: Mapping[str, tuple[Tensor, int]]) -> dict[str, Tensor]:
    return {name: (total / rows).float() for name, (total, rows) in sums.items()}


def _cut(module: nn.Module, inputs: Tensor) -> Sequence[Tensor]:
    """Cut the input of a convolution [n, in, ...] into pieces that can be unfolded."""
    if not isinstance(module, nn.modules.conv._ConvNd) or inputs.dim() != len(module.kernel_size) + 2:
        return (inputs,)
    unfolded = inputs[:1].numel() * math.prod(module.kernel_size)
    return torch.split(inputs, max(1, _MOST_AT_ONCE // max(1, unfolded)))


def input_windows(module: nn.Module, inputs: Tensor) -> Tensor:
    """Lay the input of a layer out as what each output is a product with: [rows, groups, features].

    features = in / groups · kernel, in the order of a row of the weight.
    """
    if not isinstance(module, nn.modules.conv._ConvNd):
        return inputs.reshape(-1, 1, inputs.shape[-1])
    rank = len(module.kernel_size)
    if inputs.dim() == rank + 1:  # one sample without a batch dimension
        inputs = inputs.unsqueeze(0)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    windows = functional.pad(inputs, module._reversed_padding_repeated_twice, mode=mode)
    for axis, size, step, gap in zip(
        range(2, 2 + rank), module.kernel_size, module.stride, module.dilation, strict=True
    ):
        windows = windows.unfold(axis, gap * (size - 1) + 1, step)[..., ::gap]
    # [n, in, *positions, *kernel] → [n, *positions, in, *kernel]
    windows = windows.movedim(1, 1 + rank)
    rows = windows.shape[: 1 + rank].numel()
    return windows.reshape(rows, module.groups, -1)


def _broadcastable(norms: Tensor, module: nn.Module) -> Tensor:
    """Shape norms [groups, features] so that they broadcast to the weight of their layer."""
    if is_transposed(module):
        return norms.reshape(-1, 1)
    weight = module.weight
    assert isinstance(weight, Tensor)
    groups = groups_of(module)
    per_row = norms if groups == 1 else norms.repeat_interleave(weight.shape[0] // groups, dim=0)
    return per_row.reshape(-1, *weight.shape[1:])


@contextmanager
def _hooked(layers: Owners, mask: Tensor | None, observe: _Observer) -> Iterator[None]:
    def hook_for(name: str) -> Callable[..., None]:
        def hook(
            module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor
        ) -> None:
            observe(name, _Call(module, args[0] if args else next(iter(kwargs.values())), output, mask))

        return hook

    handles = []
    try:
        for name, modules in layers.items():
            for module in modules:
                handles.append(module.register_forward_hook(hook_for(name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
