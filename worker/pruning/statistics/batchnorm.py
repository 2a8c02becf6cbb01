"""Find the BatchNorm behind a layer: by running the model, or by tracing it where there is no data."""

from collections.abc import Collection, Mapping

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from worker.pruning.statistics.calibration import Batch, run
from worker.pruning.statistics.layer import NoBatchNorm

Owners = Mapping[str, tuple[nn.Module, ...]]


def batchnorm_behind(model: nn.Module, layers: Owners, batch: Batch | None) -> dict[str, nn.Module]:
    """Return the BatchNorm that takes each layer's output, by parameter name; absent where there is none."""
    names = {module: name for name, modules in layers.items() for module in modules}
    if batch is not None:
        return _by_running(model, names, batch)
    return _by_tracing(model, names)


def scales_behind(model: nn.Module, layers: Owners, batch: Batch | None) -> dict[str, Tensor]:
    """Return |γ| of the BatchNorm behind each layer, [out] float32; raise NoBatchNorm where there is none."""
    behind = batchnorm_behind(model, layers, batch)
    scales = {}
    for name in layers:
        scale = behind[name].weight if name in behind else None
        if isinstance(scale, Tensor):
            scales[name] = scale.detach().float().abs()
    without = sorted(set(layers) - set(scales))
    if without:
        raise NoBatchNorm(
            f"no BatchNorm with a scale takes the output of {', '.join(without)}; exclude these layers, or "
            "choose a criterion that does not need one"
        )
    return scales


def _by_running(model: nn.Module, names: Mapping[nn.Module, str], batch: Batch) -> dict[str, nn.Module]:
    outputs: list[tuple[Tensor, str]] = []  # held until the end, so that no identity is used twice
    found: dict[str, nn.Module] = {}

    def remember(module: nn.Module, args: object, output: Tensor) -> None:
        outputs.append((output, names[module]))

    def recognise(module: nn.Module, args: tuple[object, ...]) -> None:
        for output, name in outputs:
            if args[0] is output:
                found[name] = module

    handles = []
    try:
        for module in model.modules():
            if module in names:
                handles.append(module.register_forward_hook(remember))
            elif isinstance(module, _BatchNorm):
                handles.append(module.register_forward_pre_hook(recognise))
        run(model, batch.sample(0))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _by_tracing(model: nn.Module, names: Mapping[nn.Module, str]) -> dict[str, nn.Module]:
    try:
        graph = _Tracer(names).trace(model)
    # Tracing runs the model's own code on stand-ins for tensors: what it raises is up to that code.
    except Exception as error:
        raise NoBatchNorm(
            f"the model cannot be traced to find its BatchNorms; give data to find them by running: {error}"
        ) from error
    found: dict[str, nn.Module] = {}
    for node in graph.nodes:
        before = node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        module, layer = model.get_submodule(node.target), model.get_submodule(str(before.target))
        if isinstance(module, _BatchNorm) and layer in names:
            found[names[layer]] = module
    return found


class _Tracer(fx.Tracer):
    """Traces through everything but the layers that are asked for, and torch's own."""

    def __init__(self, layers: Collection[nn.Module]) -> None:
        super().__init__()
        self._layers = layers

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self._layers or super().is_leaf_module(m, module_qualified_name)
