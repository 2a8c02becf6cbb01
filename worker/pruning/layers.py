"""Find the tensors of a model that can be pruned, and say why the others cannot."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from worker.pruning.errors import ReplacedWeights

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PRUNABLE = (nn.Linear, *_CONVOLUTIONS)
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Layer:
    """One tensor of a model; `why_not` is None when it can be pruned.

    `name` is the parameter's name in the state dict, `aliases` the other names of the same tensor (tied
    weights). A Linear weight is [out, in], a convolution's [out, in / groups, *kernel]; `is_transposed`
    marks the [in, out] of the Conv1D of transformers. `convolution_groups` is 0 for what is no convolution.
    """

    name: str
    module_name: str
    type: str
    weight: nn.Parameter = field(repr=False, compare=False)
    is_transposed: bool = False
    convolution_groups: int = 0
    aliases: tuple[str, ...] = ()
    why_not: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    @property
    def numel(self) -> int:
        return self.weight.numel()

    @property
    def is_convolution(self) -> bool:
        return self.convolution_groups > 0

    @property
    def input_dim(self) -> int:
        return 0 if self.is_transposed else 1

    @property
    def output_dim(self) -> int:
        """The axis of the features that it puts out; a table of embeddings has a row a token."""
        return 1 if self.is_transposed or self.type == "Embedding" else 0

    @property
    def output_first_shape(self) -> tuple[int, ...]:
        """The shape as [out, in, *kernel]."""
        return self.shape[::-1] if self.is_transposed else self.shape

    def output_first(self, tensor: Tensor) -> Tensor:
        """View a tensor of this layer's shape as [out, in, *kernel]."""
        return tensor.t() if self.is_transposed else tensor

    def as_stored(self, tensor: Tensor) -> Tensor:
        """Undo `output_first`."""
        return tensor.t() if self.is_transposed else tensor

    @property
    def is_prunable(self) -> bool:
        return self.why_not is None

    def refused(self, why_not: str) -> "Layer":
        """Return this layer, marked as not prunable for a reason."""
        return replace(self, why_not=why_not)


def find_layers(model: nn.Module) -> tuple[Layer, ...]:
    """List every parameter of a model once, sorted by name, prunable or with the reason why not.

    Tied weights are one layer under their first name; a weight that an embedding shares is refused, since
    zeroing it would change the embedding too.
    """
    groups: dict[object, list[Layer]] = {}
    for layer in _occurrences(model):
        groups.setdefault(_identity(layer.weight), []).append(layer)
    layers = _refuse_overlaps([_merge(group) for group in groups.values()])
    return tuple(sorted(layers, key=lambda layer: layer.name))


def check_weights(model: nn.Module, layers: Iterable[Layer]) -> None:
    """Raise ReplacedWeights when a layer's weight is no longer one of the model's parameters."""
    held = {id(parameter) for parameter in model.parameters()}
    for layer in layers:
        if id(layer.weight) not in held:
            raise ReplacedWeights(
                f"{layer.name} is another parameter than when the pruner was made, and its zeros would be "
                "written nowhere: load weights without assign=True, or make a new pruner and give it the "
                "state_dict() of this one"
            )


def find_parameters(model: nn.Module, layer: Layer) -> tuple[nn.Parameter, ...]:
    """Return each parameter object over a layer's storage, the layer's own first."""
    named = dict(model.named_parameters(remove_duplicate=False))
    tensors = {id(named[name]): named[name] for name in (layer.name, *layer.aliases)}
    return tuple(tensors.values())


def _occurrences(model: nn.Module) -> Iterator[Layer]:
    for module_name, module in model.named_modules(remove_duplicate=False):
        for own_name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{module_name}.{own_name}" if module_name else own_name
            yield Layer(
                name=name,
                module_name=module_name,
                type=type(module).__name__,
                weight=weight,
                is_transposed=_is_transposed(module),
                convolution_groups=module.groups if isinstance(module, _CONVOLUTIONS) else 0,
                why_not=_why_not(module, own_name, weight),
            )


def _identity(weight: Tensor) -> object:
    # Two parameters over one storage are tied as surely as one parameter under two names.
    pointer = weight.data_ptr() if weight.device.type != "meta" else 0
    return (pointer, weight.shape, weight.stride(), weight.dtype) if pointer else id(weight)


def _refuse_overlaps(layers: Sequence[Layer]) -> Iterator[Layer]:
    """Refuse weights that lie in the same memory in other shapes, as a weight tied to its transpose does."""
    spans = sorted((*_find_span(layer.weight), i) for i, layer in enumerate(layers))
    shared: dict[int, str] = {}
    last, last_end = 0, 0
    for start, end, i in spans:
        if start < min(end, last_end):
            shared |= {i: layers[last].name, last: layers[i].name}
        if end > last_end:
            last, last_end = i, end
    for i, layer in enumerate(layers):
        is_refused = i in shared and layer.is_prunable
        yield layer.refused(f"shares its memory with {shared[i]} in another layout") if is_refused else layer


def _find_span(weight: Tensor) -> tuple[int, int]:
    """Return the addresses of a tensor's first byte and of the one behind its last; 0, 0 without memory."""
    if weight.device.type == "meta" or weight.numel() == 0:
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
    return weight.data_ptr(), weight.data_ptr() + (last + 1) * weight.element_size()


def _merge(group: list[Layer]) -> Layer:
    first, *others = group
    aliases = tuple(sorted({layer.name for layer in others} - {first.name}))
    for layer in group:
        if layer.why_not is not None:
            owner = "" if layer is first else f"shares its tensor with {layer.name}: "
            return replace(first, aliases=aliases, why_not=owner + layer.why_not)
    return replace(first, aliases=aliases)


def _is_transposed(module: nn.Module) -> bool:
    # Known by name: importing transformers to ask would cost seconds and a dependency.
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _why_not(module: nn.Module, own_name: str, weight: Tensor) -> str | None:
    if isinstance(module, _NORMS) or type(module).__name__.endswith("Norm"):
        return "belongs to a normalisation layer"
    if isinstance(module, _EMBEDDINGS):
        return "is an embedding"
    if own_name.endswith("bias"):
        return "is a bias"
    if not (isinstance(module, _PRUNABLE) or _is_transposed(module)):
        return f"layers of type {type(module).__name__} are not pruned"
    if own_name != "weight":
        return f"is not the weight of its {type(module).__name__}"
    if not weight.is_floating_point():
        return f"holds {weight.dtype}, not floating-point numbers"
    if weight.numel() == 0:
        return f"is empty: its shape is {tuple(weight.shape)}"
    return None
