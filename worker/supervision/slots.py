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
    """Hands out places, and takes them back; one whose GPU is in doubt is left out."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._lock = threading.Lock()
        self._free = list(slots)
        self._doubted: set[Slot] = set()
        self.all = tuple(slots)
        self.total = len(slots)

    def take(self) -> Slot | None:
        """Take a free place; None when each has its job, or its GPU is in doubt."""
        with self._lock:
            found = next((slot for slot in self._free if slot not in self._doubted), None)
            if found is not None:
                self._free.remove(found)
            return found

    def give(self, slot: Slot) -> None:
        """Give a place back."""
        with self._lock:
            self._free.append(slot)

    def doubt(self, slot: Slot) -> None:
        """Leave a place out: its GPU does not answer, or has failed a job."""
        with self._lock:
            self._doubted.add(slot)

    def trust(self, slot: Slot) -> None:
        """Hand a place out again."""
        with self._lock:
            self._doubted.discard(slot)

    def is_trusted(self, slot: Slot) -> bool:
        """Tell whether a place may have a job, and another one after it."""
        with self._lock:
            return slot not in self._doubted

    def list_doubted(self) -> list[Slot]:
        """List the places that are left out."""
        with self._lock:
            return list(self._doubted)


def make_slots(settings: Settings) -> Slots:
    if settings.worker_device == "cuda":
        return Slots([Slot(gpu) for gpu in settings.worker_gpus])
    return Slots([Slot()] * settings.worker_slots)


def list_devices(settings: Settings) -> tuple[Device, ...]:
    """List the devices whose jobs a worker takes; one with GPUs has a CPU too."""
    if settings.worker_device == "cpu":
        return ("cpu",)
    return ("cuda", "cpu") if settings.worker_takes_cpu_jobs else ("cuda",)
