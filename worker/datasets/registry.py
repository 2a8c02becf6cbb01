"""Find the dataset formats: one file a format, a decorator on its reader, a scan over the folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.core.errors import InvalidDataset, UnsupportedFormat
from worker.datasets.splits import Split
from worker.models.registry import Network
from worker.protocol import DatasetInput
from worker.scan import import_modules

Splits = Mapping[str, Split]
Reader = Callable[[DatasetInput, Network], Splits]


@dataclass(frozen=True)
class DatasetFormat:
    name: str
    summary: str
    tasks: tuple[str, ...]
    read: Reader


_formats: dict[str, DatasetFormat] = {}


def register(name: str, *, summary: str, tasks: tuple[str, ...]) -> Callable[[Reader], Reader]:
    """Register the decorated reader under `name`, for the tasks that it can serve."""

    def decorate(read: Reader) -> Reader:
        if name in _formats:
            raise ValueError(f"dataset format {name!r} is registered twice")
        _formats[name] = DatasetFormat(name, summary, tasks, read)
        return read

    return decorate


def dataset_formats() -> dict[str, DatasetFormat]:
    """Return every dataset format by name, sorted."""
    import_modules("worker.datasets")
    return dict(sorted(_formats.items()))


def read_splits(dataset: DatasetInput, network: Network) -> Splits:
    """Read every split of an uploaded dataset for a network: text goes through its tokenizer.

    Raises UnsupportedFormat, DatasetMismatch or what the reader finds; whether images and labels fit is for
    `check_fit` to say.
    """
    known = dataset_formats()
    if dataset.format not in known:
        raise UnsupportedFormat(
            f"there is no dataset format {dataset.format!r}; there are: {', '.join(known)}"
        )
    entry = known[dataset.format]
    if dataset.task not in entry.tasks:
        raise UnsupportedFormat(
            f"{dataset.format} does not serve the task {dataset.task!r}; it serves: {', '.join(entry.tasks)}"
        )
    if "test" not in dataset.files:
        raise InvalidDataset(f"a dataset needs the split test; found: {', '.join(dataset.files) or 'none'}")
    return entry.read(dataset, network)
