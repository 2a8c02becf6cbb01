"""Follow labels through one forward pass, operation by operation, as the model really computes.

A dispatch mode sees every operation of ATen, whatever Python made it: branches taken, loops unrolled, names
of modules irrelevant. What an operation means for labels is said in `rules`; labels that reach an operation
without a rule have to stay, for that reason.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from worker.pruning.errors import Untraceable
from worker.pruning.removal.labels import Ids, Labels
from worker.pruning.removal.protocols import PadsChannels

Args = tuple[Any, ...]  # Any: what operations are called with
Kwargs = Mapping[str, Any]  # Any: the same
Rule = Callable[["Tracer", Any, Args, Kwargs], None]  # Any: what an operation returns
_TORCH = str(Path(torch.__file__).parent)
_SCALAR_READS = (
    *("aten._local_scalar_dense", "aten.is_nonzero", "aten.equal", "aten.allclose", "aten.nonzero"),
)
# Ways out of torch: no operation of ATen tells of them.
_EXPORTS = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)
OUTPUT = "is what the model puts out"


@dataclass(frozen=True)
class Axis:
    """One axis of one tensor of the model, by its name in the state dict."""

    tensor: str
    axis: int


@dataclass(frozen=True)
class Knob:
    """A count of channels that a module keeps as an attribute, no tensor having it as its size."""

    module: str
    attribute: str


@dataclass(frozen=True)
class Matrix:
    """A weight that is multiplied from the right: where it has its inputs and its outputs."""

    name: str
    in_axis: int
    out_axis: int


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch types no part of it
    """Keeps a label for every element of the activations, as arrays that broadcast to their shapes.

    An array has size 1 along the axes that its labels do not depend on. What has no array has no labels.
    """

    def __init__(self, model: nn.Module, rules: Mapping[str, Rule]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the same
        self.labels = Labels()
        self.axes: dict[Axis | Knob, Ids] = {}
        self.owners: list[Axis] = []
        self._rules = rules
        self._modules: list[tuple[str, nn.Module]] = [("", model)]
        # Keyed by the tensor object, for as long as it lives.
        self._arrays: MutableMapping[Tensor, Ids] = WeakIdKeyDictionary()
        self._transposed: MutableMapping[Tensor, str] = WeakIdKeyDictionary()
        self._seen: MutableMapping[Tensor, bool] = WeakIdKeyDictionary()
        self._named: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._named.setdefault(id(tensor), (name, tensor))

    @property
    def place(self) -> str:
        """The name of the innermost module that is running, for reasons."""
        return self._modules[-1][0] or "the model"

    @property
    def module(self) -> tuple[str, nn.Module]:
        return self._modules[-1]

    def name_of(self, tensor: Tensor) -> str | None:
        """Return the name of a parameter or buffer; None for what is computed."""
        name, found = self._named.get(id(tensor), (None, None))
        return name if found is tensor else None

    def matrix(self, tensor: Tensor) -> Matrix | None:
        """Return what a matrix of the model is to a product from the left, transposed before or not."""
        if tensor.ndim != 2:
            return None
        if (name := self.name_of(tensor)) is not None:
            return Matrix(name, in_axis=0, out_axis=1)
        name = self._transposed.get(tensor)
        return None if name is None else Matrix(name, in_axis=1, out_axis=0)

    def note_transposed(self, result: Tensor, weight: Tensor) -> bool:
        """Remember that a matrix of the model was transposed; False when it is none."""
        name = self.name_of(weight) if weight.ndim == 2 else None
        if name is not None:
            self._transposed[result] = name
        return name is not None

    def axis_ids(self, name: str, axis: int, size: int) -> Ids:
        """Return the labels along an axis of one of the model's tensors, drawn when first asked for."""
        return self._ids(Axis(name, axis), size)

    def knob_ids(self, attribute: str, size: int) -> Ids:
        """Return the labels of channels that the running module counts in an attribute."""
        return self._ids(Knob(self.module[0], attribute), size)

    def own(self, name: str, axis: int) -> None:
        """Note that a tensor's axis makes the channels that others read."""
        if Axis(name, axis) not in self.owners:
            self.owners.append(Axis(name, axis))

    def ids(self, tensor: Tensor) -> Ids | None:
        """Return the labels of an activation, or of a parameter used as one; None where there are none."""
        if (name := self.name_of(tensor)) is not None:
            return self._ids_of_parameter(name, tensor)
        ids = self._arrays.get(tensor)
        return None if ids is None else self._compress(ids)

    def set_ids(self, tensor: Tensor, ids: Ids | None) -> None:
        """Give an activation its labels, an array that broadcasts to its shape."""
        if ids is not None:
            assert ids.ndim == tensor.ndim, (ids.shape, tensor.shape)
            self._arrays[tensor] = ids

    def keep(self, ids: Ids | None, reason: str) -> None:
        """Say that labels have to stay."""
        if ids is not None:
            self.labels.keep(ids, reason)

    def keep_tensor(self, tensor: Tensor, reason: str) -> None:
        """Say that all labels of a tensor have to stay: every axis of one of the model's."""
        name = self.name_of(tensor) or self._transposed.get(tensor)
        if name is None:
            self.keep(self.ids(tensor), reason)
            return
        shape = tensor.shape if self.name_of(tensor) else tensor.shape[::-1]
        for axis, size in enumerate(shape):
            self.keep_axis(name, axis, size, reason)

    def keep_axis(self, name: str, axis: int, size: int, reason: str) -> None:
        """Say that a whole axis of one of the model's tensors has to stay."""
        self.labels.keep(self.axis_ids(name, axis, size), reason)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Know which module is running."""
        with ExitStack() as stack:
            for name, module in self._modules[0][1].named_modules():
                stack.callback(module.register_forward_pre_hook(self._enter(name)).remove)
                stack.callback(module.register_forward_hook(self._leave, always_call=True).remove)
            with self, _Exports(self):
                yield

    def begin(self, inputs: object) -> None:
        """Note the inputs: a branch on a text's length is that of all texts, one on numbers is not."""
        for leaf in tree_leaves(inputs):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                self._seen[leaf] = True

    def finish(self, outputs: object) -> None:
        """Keep what the model puts out."""
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                self.keep(self.ids(output), OUTPUT)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:  # Any: whatever operation of ATen it is
        kwargs = kwargs or {}
        name = str(func.overloadpacket)
        tensors = [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
        computed = any(map(self._depends_on_values, tensors))
        if computed and name in _SCALAR_READS:
            raise _refuse_values()
        result = func(*args, **kwargs)
        for output in tree_leaves(result):
            if isinstance(output, Tensor) and computed:
                self._seen[output] = True
        rule = self._rules.get(name)
        if rule is not None:
            rule(self, result, args, kwargs)
        else:
            for tensor in tensors:
                self.keep_tensor(tensor, f"goes through {name} in {self.place}, which is not understood")
        return result

    def check_export(self, tensor: Tensor) -> None:
        """Raise Untraceable where a tensor that leaves torch holds values that the model computed."""
        if self._depends_on_values(tensor):
            raise _refuse_values()

    def _depends_on_values(self, tensor: Tensor) -> bool:
        if self.name_of(tensor) is not None:
            return tensor.is_floating_point()
        return tensor in self._seen

    def _ids(self, where: Axis | Knob, size: int) -> Ids:
        if where not in self.axes:
            self.axes[where] = self.labels.draw(size)
        return self.axes[where]

    def _ids_of_parameter(self, name: str, tensor: Tensor) -> Ids | None:
        """Label a parameter that is added or multiplied along its last axis: biases, scales, positions."""
        along = [axis for axis, size in enumerate(tensor.shape) if size > 1] or [tensor.ndim - 1]
        if tensor.ndim == 0:
            return None
        axis = along[-1]
        shape = [1] * tensor.ndim
        shape[axis] = tensor.shape[axis]
        return self.axis_ids(name, axis, tensor.shape[axis]).reshape(shape)

    def _compress(self, ids: Ids) -> Ids:
        """Give size 1 to the axes along which all labels are of one class."""
        ids = self.labels.find(ids)
        for axis, size in enumerate(ids.shape):
            if size > 1 and bool((ids == (first := np.take(ids, [0], axis=axis))).all()):
                ids = first
        return ids

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: object) -> None:
            self._modules.append((name, module))

        return enter

    def _leave(self, module: nn.Module, args: object, output: object) -> None:
        self._modules.pop()


class _Exports(TorchFunctionMode):
    """Sees what Python does with tensors, for the sake of values that leave torch."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Args = (), kwargs: Kwargs | None = None
    ) -> Any:  # Any: whatever function of torch it is
        if func in _EXPORTS:
            self._tracer.check_export(args[0])
        return func(*args, **(kwargs or {}))


def find_padding_module(tracer: Tracer) -> PadsChannels | None:
    """Return the running module when it says how many channels it pads."""
    module = tracer.module[1]
    return module if isinstance(module, PadsChannels) else None


def _refuse_values() -> Untraceable:
    return Untraceable(
        f"what the model computes next depends on the values that it computed: {_find_place()}"
    )


def _find_place() -> str:
    """Say where in the model's own code we are."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(_TORCH) and frame.filename != __file__:
            return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}: {frame.line}"
    return "an unknown place"
