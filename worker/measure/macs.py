"""Count the multiply-accumulates of one sample, layer by layer, by running it.

The formulas are those of torch.utils.flop_counter. Its own counter imports torch's compiler, which takes
longer than everything else that a small job does; ours adds up the same numbers without, and one more: the
attention kernel of a CPU, for which torch has no formula.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from worker.models.inputs import Inputs, compute_logits

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FORMULAS = {
    **flop_registry,
    _CPU_ATTENTION: flop_registry[torch.ops.aten._scaled_dot_product_flash_attention],
}


@dataclass(frozen=True)
class LayerMacs:
    """`by_weight` has every layer by its weight's name in the state dict; `rest` is what no layer does.

    A weight that several layers share is there under the name of each. Looking up an embedding multiplies
    nothing. The products of queries, keys and values are in `rest`.
    """

    by_weight: Mapping[str, int]
    rest: int

    @property
    def total(self) -> int:
        return sum(self.by_weight.values()) + self.rest


def count_macs(module: nn.Module, sample: Inputs) -> LayerMacs:
    """Count the products of one sample (a batch of 1), those with zeros and with padding too."""
    layers = {
        f"{name}.weight" if name else "weight": layer
        for name, layer in module.named_modules()
        if "weight" in layer._parameters
    }
    module.eval()
    counter = _ProductCounter()
    with torch.no_grad(), _tell_layers(layers, counter), counter:
        compute_logits(module, sample)
    return LayerMacs({name: counter.products[name] for name in layers}, counter.products[None])


def count_macs_within(module: nn.Module, sample: Inputs, names: Iterable[str]) -> dict[str, int]:
    """Count the products of one sample within the named modules, all of them; none lies within another."""
    parts = {name: module.get_submodule(name) for name in names}
    module.eval()
    counter = _ProductCounter()
    with torch.no_grad(), _tell_layers(parts, counter), counter:
        compute_logits(module, sample)
    return {name: counter.products[name] for name in parts}


def count_effective_macs(macs: LayerMacs, weights: Mapping[str, torch.Tensor]) -> int:
    """Count the products whose weight is not zero.

    `weights` is by tensor name. Each weight of a linear or convolutional layer takes part in equally many
    products (one a position), so a layer's count is its total times its share of weights that are not zero.
    That holds for a Linear, [out, in], as for the Conv1D of transformers, [in, out].
    """
    effective = macs.rest
    for name, total in macs.by_weight.items():
        weight = weights[name]
        effective += total * int(torch.count_nonzero(weight)) // max(weight.numel(), 1)
    return effective


class _ProductCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Adds the products of every operation to the innermost layer that is running."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.products: Counter[str | None] = Counter()
        self.running: list[str] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Skipping it would import it first.
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],  # Any: torch hands over any operator with any arguments
        types: Iterable[type],
        args: tuple[Any, ...] = (),  # Any: as above
        kwargs: Mapping[str, Any] | None = None,  # Any: as above
    ) -> Any:  # Any: as above
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = _FORMULAS.get(getattr(func, "overloadpacket", None))
        if formula is not None:
            # Two floating-point operations are one multiply-accumulate.
            innermost = self.running[-1] if self.running else None
            self.products[innermost] += formula(*args, **kwargs, out_val=result) // 2
        return result


@contextmanager
def _tell_layers(layers: Mapping[str, nn.Module], counter: _ProductCounter) -> Iterator[None]:
    handles = []
    try:
        for name, layer in layers.items():
            handles.append(layer.register_forward_pre_hook(partial(_enter, counter, name)))
            handles.append(layer.register_forward_hook(partial(_leave, counter)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _enter(counter: _ProductCounter, name: str, _module: nn.Module, _inputs: object) -> None:
    counter.running.append(name)


def _leave(counter: _ProductCounter, _module: nn.Module, _inputs: object, _outputs: object) -> None:
    counter.running.pop()
