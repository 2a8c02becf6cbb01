"""The places of one worker: so many jobs on the CPU at once, or one job a GPU."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from app.core.config import Device, Settings


@dataclass(frozen=True)
class Slot:
    """A place for one job; `gpu` is the index of the GPU that it has for itself."""

    gpu: int | None = None

    @property
    def name(self) -> str:
        return "cpu" if self.gpu is None else f"cuda:{self.gpu}"


class Slots:
    """Hands out places, and takes them back."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._lock = threading.Lock()
        self._free = list(slots)
        self.total = len(slots)

    def take(self) -> Slot | None:
        """Take a free place; None when each has its job."""
        with self._lock:
            return self._free.pop(0) if self._free else None

    def give(self, slot: Slot) -> None:
        """Give a place back."""
        with self._lock:
            self._free.append(slot)


def make_slots(settings: Settings) -> Slots:
    if settings.worker_device == "cuda":
        return Slots([Slot(gpu) for gpu in settings.worker_gpus])
    return Slots([Slot()] * settings.worker_slots)


def list_devices(settings: Settings) -> tuple[Device, ...]:
    """List the devices whose jobs a worker takes; one with GPUs has a CPU too."""
    if settings.worker_device == "cpu":
        return ("cpu",)
    return ("cuda", "cpu") if settings.worker_takes_cpu_jobs else ("cuda",)
