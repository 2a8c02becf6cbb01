"""What the tests of the fork server fork."""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

_seen: list[str] = []


def main(arguments: list[str]) -> int:
    match arguments:
        case ["answer", *rest]:
            sys.stdout.write(json.dumps({"rest": rest, "group": os.getpgrp(), "pid": os.getpid()}))
            return 7
        case ["environment"]:
            sys.stdout.write(json.dumps(dict(os.environ)))
            return 0
        case ["importer", module]:
            sys.stdout.write(json.dumps([os.getpid(), importlib.import_module(module).IMPORTED_BY]))
            return 0
        case ["offline"]:
            sys.stdout.write(str(importlib.import_module("huggingface_hub.constants").HF_HUB_OFFLINE))
            return 0
        case ["descriptors"]:
            found = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
            sys.stdout.write(json.dumps(sorted(number for number in found if _is_open(number))))
            return 0
        case ["raise"]:
            raise ValueError("as it was asked to")
        case ["exit"]:
            sys.exit()
        case ["exit", code]:
            sys.exit(int(code) if code.isdecimal() else code)
        case ["signal", number]:
            os.kill(os.getpid(), int(number))
        case ["sleep"]:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            sys.stdout.write("sleeping")
            sys.stdout.flush()
            time.sleep(300)
        case ["remember"]:
            # A module that one process changed is as it was in the next one.
            sys.stdout.write(str(_seen))
            _seen.append("a process before this one")
            return 0
    return 1


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
