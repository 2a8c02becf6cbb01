"""Find the model formats: one file a format, a decorator on its reader, a scan over the folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from app.core.errors import UnsupportedFormat
from worker.models.registry import Network
from worker.protocol import ModelInput
from worker.scan import import_modules


@dataclass(frozen=True)
class LoadedModel:
    """A network with the uploaded weights, in evaluation mode on the CPU.

    `tensor_names` are those of the network that the file has; `names_in_file` is what it calls them, where
    that is something else.
    `build` gives the same architecture with fresh random weights, drawn from torch's global generator.
    `warnings` say what a user should know of how the file was read.
    """

    network: Network
    tensor_names: tuple[str, ...]
    build: Callable[[], Network]
    warnings: tuple[str, ...] = ()
    names_in_file: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelFormat:
    name: str
    summary: str
    read: Callable[[ModelInput], LoadedModel]


_formats: dict[str, ModelFormat] = {}


def register(
    name: str, *, summary: str
) -> Callable[[Callable[[ModelInput], LoadedModel]], Callable[[ModelInput], LoadedModel]]:
    """Register the decorated reader under `name`."""

    def decorate(read: Callable[[ModelInput], LoadedModel]) -> Callable[[ModelInput], LoadedModel]:
        if name in _formats:
            raise ValueError(f"model format {name!r} is registered twice")
        _formats[name] = ModelFormat(name, summary, read)
        return read

    return decorate


def model_formats() -> dict[str, ModelFormat]:
    """Return every model format by name, sorted."""
    import_modules("worker.formats")
    return dict(sorted(_formats.items()))


def read_model(model: ModelInput) -> LoadedModel:
    """Read an uploaded model after its deep check; raises UnsupportedFormat or what the reader finds."""
    known = model_formats()
    if model.format not in known:
        raise UnsupportedFormat(f"there is no model format {model.format!r}; there are: {', '.join(known)}")
    return known[model.format].read(model)
