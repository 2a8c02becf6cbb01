"""`make bench-gpu`: jobs on a GPU, memory free after a cancel, one job a GPU; the library beside the CPU.

Needs a machine with an NVIDIA GPU and a torch that finds it; nothing else is downloaded or read.
"""

import shutil
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_jobs import run_jobs
from benchmarks.gpu_library import compare_devices

OUTPUT = Path("bench-output") / "gpu"
# Scores are sums, which the two devices add in another order: weights at the threshold change places.
MOST_DIFFER = 0.02


def main() -> int:
    """Print both tables; returns 1 when a line is missed, 2 without a GPU."""
    if not torch.cuda.is_available():
        print("bench-gpu: torch finds no GPU on this machine", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    console = Console(width=150)
    console.print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    shutil.rmtree(OUTPUT, ignore_errors=True)
    missed = 0
    for line in run_jobs(OUTPUT):
        console.print(f"{_judge(line.is_met)}  {line.what}: {line.found}", markup=False, highlight=False)
        missed += not line.is_met
    return 1 if _show_library(console) or missed else 0


def _show_library(console: Console) -> int:
    start = time.perf_counter()
    table = Table("on GPU and CPU", "differ", "", title="The library on a GPU")
    missed = 0
    for check in compare_devices():
        is_met = check.differ is not None and check.differ <= MOST_DIFFER
        missed += not is_met
        found = check.error if check.differ is None else f"{check.differ:.3%}"
        table.add_row(check.name, found, _judge(is_met))
    console.print(table)
    console.print(f"{time.perf_counter() - start:.0f} s")
    return missed


def _judge(is_met: bool) -> str:
    return "met   " if is_met else "MISSED"


if __name__ == "__main__":
    sys.exit(main())
