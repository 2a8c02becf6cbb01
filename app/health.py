"""Say whether a process of this container works: `python -m app.health api|relay|worker`, exit code 0 or 1.

Light on purpose: it runs every few seconds beside the process that it asks about.
"""

import sys
import urllib.error
import urllib.request

from app.core.config import Settings
from app.core.pulse import STALE_AFTER_S, Beating, age_s

_TIMEOUT_S = 5.0
_USAGE = 2


def main(arguments: list[str]) -> int:
    """Print one sentence and return the exit code."""
    settings = Settings()
    match arguments:
        case ["api"]:
            fault = _ask_api(settings)
        case ["relay" | "worker" as name]:
            fault = _feel_pulse(settings, name)
        case _:
            sys.stderr.write("usage: python -m app.health api|relay|worker\n")
            return _USAGE
    sys.stdout.write(f"{fault or 'ok'}\n")
    return 1 if fault else 0


def _ask_api(settings: Settings) -> str | None:
    url = f"http://127.0.0.1:{settings.port}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        return f"not ready: {error.read(2000).decode(errors='replace')}"
    except OSError as error:
        return f"no answer from {url}: {error}"


def _feel_pulse(settings: Settings, name: Beating) -> str | None:
    age = age_s(settings.pulse_dir, name)
    if age is None:
        return f"the {name} has not begun to work"
    if age > STALE_AFTER_S:
        return f"the {name} has shown no life for {age:.0f} s"
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
