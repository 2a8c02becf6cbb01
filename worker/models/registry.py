"""Find the built-in architectures: one file a family, a decorator on the builder, a scan over the folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import nn

from app.core.errors import UnknownArchitecture
from worker.models.inputs import ImageInput, TextInput
from worker.models.tokenizer import TextTokenizer
from worker.scan import import_modules

LIBRARY = "secateur"


class Params(BaseModel):
    """Base of every architecture's parameters: its fields are all that is accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


@dataclass(frozen=True)
class Network:
    """A model in evaluation mode, what it takes, how many numbers it answers, and the tasks it can serve.

    A network that takes text brings its tokenizer.
    """

    module: nn.Module
    inputs: ImageInput | TextInput
    outputs: int
    tasks: tuple[str, ...] = ("image-classification",)
    tokenizer: TextTokenizer | None = None


def image_network(module: nn.Module, shape: tuple[int, int, int], outputs: int) -> Network:
    """Return the network of a module for images [channels, height, width]: one output is a number."""
    tasks = ("regression",) if outputs == 1 else ("image-classification",)
    return Network(module, ImageInput(shape), outputs, tasks)


@dataclass(frozen=True)
class Architecture:
    """One registered architecture; `source` is the paper that it comes from."""

    name: str
    summary: str
    source: str
    params: type[Params]
    build: Callable[[Params], Network]


_architectures: dict[str, Architecture] = {}
P = TypeVar("P", bound=Params)


def register(
    name: str, params: type[P], *, source: str, summary: str
) -> Callable[[Callable[[P], Network]], Callable[[P], Network]]:
    """Register the decorated builder under `name`; a second builder of that name is an error."""

    def decorate(build: Callable[[P], Network]) -> Callable[[P], Network]:
        if name in _architectures:
            raise ValueError(f"architecture {name!r} is registered twice")
        erased = cast(Callable[[Params], Network], build)
        _architectures[name] = Architecture(name, summary, source, params, erased)
        return build

    return decorate


def architectures() -> dict[str, Architecture]:
    """Return every built-in architecture by name, sorted."""
    import_modules("worker.models")
    return dict(sorted(_architectures.items()))


def build(architecture: Mapping[str, JsonValue]) -> Network:
    """Build `{library, name, params}` with fresh weights, in evaluation mode, on the CPU.

    Raises UnknownArchitecture, naming those that exist or the parameter that does not fit.
    """
    library, name = architecture.get("library", LIBRARY), architecture.get("name")
    if library != LIBRARY:
        raise UnknownArchitecture(f"there is no library {library!r}; there is: {LIBRARY}")
    known = architectures()
    if not isinstance(name, str) or name not in known:
        raise UnknownArchitecture(f"there is no architecture {name!r}; there are: {', '.join(known)}")
    entry = known[name]
    network = entry.build(_parse_params(entry, architecture.get("params") or {}))
    network.module.eval()
    return network


def _parse_params(entry: Architecture, params: JsonValue) -> Params:
    try:
        return entry.params.model_validate(params)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UnknownArchitecture(
            f"architecture {entry.name!r} does not take these params: {faults}"
        ) from error
