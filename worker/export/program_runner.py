"""Run a program of torch.export in a process that knows torch and nothing else: not this package either."""

import errno
import json
import sys
from pathlib import Path

import torch


def main(request: dict) -> None:  # type: ignore[type-arg]  # JSON
    """Answer a request: the program's file, and cases, each of inputs as raw bytes and where its answer goes.

    What the machine lacks is the exit status; see worker.export.child, which this file may not import.
    """
    torch.set_num_threads(1)
    module = torch.export.load(request["program"]).module()
    try:
        shapes = [_answer(module, **case) for case in request["cases"]]
    except (MemoryError, OSError, RuntimeError) as error:
        # The CPU's allocator has no error class of its own.
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        sys.stderr.write(f"{error}\n")
        sys.exit((isinstance(error, OSError) and error.errno) or errno.ENOMEM)
    foreign = {name.partition(".")[0] for name in sys.modules} & {
        "transformers",
        "safetensors",
        "worker",
        "app",
    }
    if foreign:
        raise RuntimeError(f"the program needs more than torch: {', '.join(sorted(foreign))}")
    sys.stdout.write(json.dumps(shapes))


def _answer(module: torch.nn.Module, inputs: list[dict], output: str) -> list[int]:  # type: ignore[type-arg]  # JSON
    named = {one["name"]: _read(**one) for one in inputs}
    with torch.no_grad():
        answer = module(named[""]) if "" in named else module(**named)
    Path(output).write_bytes(answer.float().contiguous().numpy().tobytes())
    return list(answer.shape)


def _read(name: str, file: str, shape: list[int], dtype: str) -> torch.Tensor:
    raw = bytearray(Path(file).read_bytes())
    return torch.frombuffer(raw, dtype=getattr(torch, dtype)).reshape(shape)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
