"""Count the multiply-accumulates of each layer for one sample, by running the model once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from worker.pruning.layers import Layer
from worker.pruning.statistics.calibration import Batch, run, undisturbed


@torch.no_grad()
def count_macs(model: nn.Module, layers: Sequence[Layer], batch: Batch) -> dict[str, int]:
    """Return the products of weights with inputs for one sample, by parameter name.

    Every weight of a linear layer is used once a row of its input, every weight of a convolution once a
    position of its output. Layers that the model does not call have none; shared ones add up.
    """
    counts = {layer.name: 0 for layer in layers if layer.is_prunable}
    with undisturbed(model):
        handles = []
        try:
            for layer in layers:
                if not layer.is_prunable:
                    continue
                names = (layer.name, *layer.aliases)
                for module in {model.get_submodule(name.rpartition(".")[0]) for name in names}:
                    handles.append(module.register_forward_hook(_counter(layer, counts)))
            run(model, batch.sample(0))
        finally:
            for handle in handles:
                handle.remove()
    return counts


def count_all_macs(model: nn.Module, batch: Batch) -> int:
    """Return all products of one sample, as torch's FlopCounterMode counts them.

    It knows those of attention where they are matrix products or a GPU's kernel, not those of a CPU's kernel.
    """
    # Imports torch's compiler, which takes seconds.
    from torch.utils.flop_counter import FlopCounterMode  # noqa: PLC0415

    counter = FlopCounterMode(display=False)
    with undisturbed(model), counter:
        run(model, batch.sample(0))
    return counter.get_total_flops() // 2


def _counter(layer: Layer, counts: dict[str, int]) -> Callable[[nn.Module, object, object], None]:
    def count(module: nn.Module, args: object, output: object) -> None:
        assert isinstance(output, Tensor)
        counts[layer.name] += layer.numel * (output.numel() // layer.output_first_shape[0])

    return count
