"""Tell a kill for want of memory from others: the same SIGKILL as anybody's, but the kernel counts it."""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

_GROUP = "proc/self/cgroup"
_MOUNT = "sys/fs/cgroup"
_MACHINE = "proc/vmstat"
_KEY = "oom_kill"
# The kernel counts before it sends the signal, and taking a process of many gigabytes apart takes it seconds.
_WINDOW_S = 60.0


class OomWatch:
    """Tells whether the kernel killed a process for want of memory in the last minute.

    It counts those of this process's control group, where version 2 of cgroups does (memory.events), as a
    container and a systemd unit have it; those of the whole machine otherwise (Linux 4.13). `look` is to be
    called more often than once a minute, so that a kill of long ago is not taken for one of now.
    """

    def __init__(self, root: Path = Path("/"), *, clock: Callable[[], float] = time.monotonic) -> None:
        paths = (_find_events(root), root / _MACHINE)
        self._path = next((path for path in paths if path and _read_count(path) is not None), None)
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()
        self.look()

    @property
    def sees(self) -> bool:
        """Whether the kernel counts at all."""
        return self._path is not None

    def look(self) -> None:
        """Note the count as it is now."""
        now_s, count = self._clock(), _read_count(self._path) if self._path else None
        if count is not None:
            self._seen.append((now_s, count))
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - _WINDOW_S:
            self._seen.popleft()

    def has_killed(self) -> bool:
        """Tell whether the count rose in the last minute; False where the kernel does not count."""
        self.look()
        return bool(self._seen) and self._seen[-1][1] > self._seen[0][1]


def _find_events(root: Path) -> Path | None:
    try:
        lines = (root / _GROUP).read_text().splitlines()
    except OSError:
        return None
    # Version 2 has the one hierarchy without a number or a controller.
    group = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    return None if group is None else root / _MOUNT / group / "memory.events"


def _read_count(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    counts = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return int(counts[_KEY]) if _KEY in counts else None
