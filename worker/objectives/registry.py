"""Find the tasks: a decorator on the objective's class, a scan over the folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from app.core.errors import UnsupportedFormat
from worker.scan import import_modules

Records = dict[str, Tensor]


class Objective(Protocol):
    """The loss of a task, and what is kept of each sample to compute metrics and compare two models."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        ...

    def distill(
        self, logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, temperature: float
    ) -> Tensor:
        """Return how far the answers are from the teacher's: a mean over the batch, a scalar."""
        ...

    def record(self, logits: Tensor, targets: Tensor) -> Records:
        """Return what the metrics need of each sample, each [b, …], on the CPU."""
        ...


@dataclass(frozen=True)
class Task:
    """One registered task; the first of its `metrics` is the one that is reported when none is asked for."""

    name: str
    summary: str
    metrics: tuple[str, ...]
    objective: Objective


_tasks: dict[str, Task] = {}
T = TypeVar("T", bound=Objective)


def register(name: str, *, summary: str, metrics: tuple[str, ...]) -> Callable[[type[T]], type[T]]:
    """Register the decorated class, which takes no arguments, as the objective of the task `name`."""

    def decorate(cls: type[T]) -> type[T]:
        if name in _tasks:
            raise ValueError(f"task {name!r} is registered twice")
        _tasks[name] = Task(name, summary, metrics, cls())
        return cls

    return decorate


def tasks() -> Mapping[str, Task]:
    """Return every task by name, sorted."""
    import_modules("worker.objectives")
    return dict(sorted(_tasks.items()))


def find_task(name: str) -> Task:
    """Return the task of a name; raises UnsupportedFormat, naming those that there are."""
    known = tasks()
    if name not in known:
        raise UnsupportedFormat(f"there is no task {name!r}; there are: {', '.join(known)}")
    return known[name]
