"""Know that the worker shall give its jobs back, and since when."""

import math
import threading
import time


class Draining(threading.Event):
    """Set when the worker was told to end."""

    def __init__(self) -> None:
        super().__init__()
        self._began_s = math.inf

    def set(self) -> None:
        # A second signal gives no second grace.
        self._began_s = min(self._began_s, time.monotonic())
        super().set()

    def left_s(self, grace_s: float) -> float:
        """Return what is left of so much time since it was set; infinitely much before."""
        return grace_s - (time.monotonic() - self._began_s) if self.is_set() else math.inf
