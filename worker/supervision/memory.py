"""Count what the kernel killed because memory ran out: the same SIGKILL as anybody's, but it keeps count."""

from pathlib import Path

_GROUP = "proc/self/cgroup"
_MOUNT = "sys/fs/cgroup"
_MACHINE = "proc/vmstat"
_KEY = "oom_kill"


def count_oom_kills(root: Path = Path("/")) -> int | None:
    """Return how many processes were ever killed for want of memory; None where the kernel does not say.

    Those of this process's control group, where version 2 of cgroups counts them (memory.events), as a
    container and a systemd unit have it; of the whole machine otherwise (Linux 4.13).
    """
    for path in (_find_events(root), root / _MACHINE):
        count = _read_count(path) if path is not None else None
        if count is not None:
            return count
    return None


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
