"""What a model costs with its masks: parameters, multiply-accumulates, bytes; each falls as masks grow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from worker.pruning.errors import MissingData, UnsupportedTarget
from worker.pruning.layers import Layer
from worker.pruning.protocols import Unit


@dataclass(frozen=True)
class Size:
    """The size of a model in one metric, given how many groups of each unit are pruned.

    `total` is the dense size, `per_group` what one pruned group of each unit takes off, `overhead` what
    storing the masks adds once anything is pruned.
    """

    metric: str
    total: float
    per_group: tuple[float, ...]
    overhead: float = 0.0

    def after(self, pruned: Sequence[int]) -> float:
        """Return the size when so many groups of each unit are pruned."""
        saved = sum(count * each for count, each in zip(pruned, self.per_group, strict=True))
        return self.total - saved + (self.overhead if any(pruned) else 0.0)


def parameters_size(layers: Sequence[Layer], units: Sequence[Unit]) -> Size:
    """Count the parameters that are not pruned, tied ones once, biases and norms too."""
    total = float(sum(layer.numel for layer in layers))
    return Size("parameters", total, tuple(float(unit.group_size) for unit in units))


def macs_size(
    layers: Sequence[Layer], units: Sequence[Unit], macs: Mapping[str, int], *, others: int = 0
) -> Size:
    """Count the multiply-accumulates of one sample with weights that are not pruned.

    `macs` holds those of each layer by parameter name, of a shared weight by the name of each; a layer's
    products fall evenly on its weights. `others` are those without a weight, which stay.
    """

    def count(layer: Layer) -> int:
        return sum(macs.get(name, 0) for name in (layer.name, *layer.aliases))

    missing = [layer.name for unit in units for layer in unit.layers if layer.name not in macs]
    if missing:
        raise MissingData(f"a target of macs needs those of {', '.join(missing[:3])}: give macs or data")
    per_group = tuple(float(sum(map(count, unit.layers))) / unit.groups for unit in units)
    return Size("macs", float(sum(map(count, layers)) + others), per_group)


def stored_size(model: nn.Module, units: Sequence[Unit], *, is_structured: bool) -> Size:
    """Count the bytes of the state dict, tied tensors once, when pruned weights are not stored.

    What is cut out of the tensors (structured) leaves nothing behind; single weights and blocks leave one bit
    a weight of every layer that is pruned, to say where the kept ones belong.
    """
    total = float(sum(tensor.nbytes for tensor in _stored(model)))
    per_group = tuple(sum(layer.weight.nbytes for layer in unit.layers) / unit.groups for unit in units)
    bits = sum((layer.numel + 7) // 8 for unit in units for layer in unit.layers)
    return Size("size_bytes", total, per_group, overhead=0.0 if is_structured else float(bits))


def unsupported(metric: str) -> UnsupportedTarget:
    """Say that a metric can only be had by measuring."""
    return UnsupportedTarget(
        f"a target of {metric} has to be measured by running the model: search over sparsity outside of the "
        "library, which reaches sparsity, parameters, macs and size_bytes"
    )


def _stored(model: nn.Module) -> list[Tensor]:
    seen: dict[object, Tensor] = {}
    for tensor in model.state_dict(keep_vars=True).values():
        if isinstance(tensor, Tensor):
            seen.setdefault((tensor.data_ptr(), tensor.shape) if tensor.numel() else id(tensor), tensor)
    return list(seen.values())
