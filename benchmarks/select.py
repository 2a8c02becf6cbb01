"""`make bench-select`: exact selection against torch.nn.utils.prune, and how it grows to a billion weights.

Everything is measured in one run, every measurement in a process of its own, one after another.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.select_runs import SPARSITY, Job, Measurement, make_weights

OUTPUT = Path("bench-output") / "select.json"
WEIGHTS = 105_000_000
BILLION = 1_000_000_000
GROWTH = (1_000_000, 3_000_000, 10_000_000, 30_000_000, 100_000_000, 300_000_000, BILLION)
LEAST_TIMES_FASTER = 20.0
MOST_MEMORY_RATIO = 1 / 20
MOST_BYTES_FOR_A_BILLION = 2 * 1024**3


def main() -> int:
    """Measure and print; returns 0 when every bar is met, 1 when one is missed."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        ours_masks, peer_masks = Path(folder) / "ours", Path(folder) / "peer"
        read = _run(Job(what="read", weights=WEIGHTS, repeats=5))
        ours = _run(Job(what="ours", weights=WEIGHTS, repeats=5, masks=ours_masks))
        profiled = _run(Job(what="ours", weights=WEIGHTS, profile=True))
        console.print("torch.nn.utils.prune takes its time …")
        peer = _run(Job(what="peer", weights=WEIGHTS, masks=peer_masks))
        differing = _compare(ours_masks, peer_masks)
    console.print(_comparison(read, ours, peer))
    console.print(_profile(read, profiled))
    growth = {weights: _run(Job(what="ours", weights=weights, repeats=3)) for weights in GROWTH}
    reads = {weights: _run(Job(what="read", weights=weights, repeats=3)) for weights in GROWTH}
    console.print(_growth(growth, reads))
    bars = {
        f"at least {LEAST_TIMES_FASTER:g} times faster": _median(peer) / _median(ours) >= LEAST_TIMES_FASTER,
        "at most a twentieth of the extra memory": ours.extra_bytes / peer.extra_bytes <= MOST_MEMORY_RATIO,
        "the same weights kept": differing == "none",
        "a billion weights inside 2 GiB extra": growth[BILLION].extra_bytes <= MOST_BYTES_FOR_A_BILLION,
    }
    for bar, is_met in bars.items():
        console.print(f"{'met   ' if is_met else 'MISSED'} {bar}")
    console.print(f"weights kept by one and not by the other: {differing}")
    _write(read=read, ours=ours, peer=peer, **{f"ours_{n}": found for n, found in growth.items()})
    return 0 if all(bars.values()) else 1


def _run(job: Job) -> Measurement:
    command = [sys.executable, "-m", "benchmarks.select_runs", job.model_dump_json()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Measurement.model_validate_json(done.stdout.splitlines()[-1])


def _median(found: Measurement) -> float:
    return statistics.median(found.seconds)


def _compare(ours: Path, peer: Path) -> str:
    """Return `none`, or how many weights only one of them keeps that are not ties at the threshold."""
    masks = [np.frombuffer(path.read_bytes(), dtype=np.uint8) for path in (ours, peer)]
    bits_ours, bits_peer = (np.unpackbits(packed, bitorder="little").astype(bool) for packed in masks)
    if (count := np.count_nonzero(bits_ours)) != np.count_nonzero(bits_peer):
        return f"{count} and {np.count_nonzero(bits_peer)} are kept"
    different = np.flatnonzero(bits_ours != bits_peer)
    magnitudes = np.concatenate([weight.abs().numpy().reshape(-1) for weight in make_weights(WEIGHTS)])
    # Which of several equal weights goes is a matter of order; weights of different magnitude are not.
    return (
        "none" if np.unique(magnitudes[different]).size <= 1 else f"{different.size} of different magnitude"
    )


def _comparison(read: Measurement, ours: Measurement, peer: Measurement) -> Table:
    table = Table(title=f"{WEIGHTS:,} float32 weights in 8 tensors, {SPARSITY:.0%} global magnitude")
    for column in ("", "seconds", "extra memory, MB", "times one read"):
        table.add_column(column, justify="left" if not column else "right")
    rows = [("one read of the weights", read), ("worker.pruning.prune", ours), ("torch.nn.utils.prune", peer)]
    for name, found in rows:
        times = _median(found) / _median(read)
        table.add_row(name, f"{_median(found):.3f}", f"{found.extra_bytes / 1e6:.0f}", f"{times:.1f}")
    faster, smaller = _median(peer) / _median(ours), peer.extra_bytes / ours.extra_bytes
    table.add_row("ratio of the two", f"{faster:.1f}", f"{smaller:.1f}", "")
    return table


def _profile(read: Measurement, profiled: Measurement) -> Table:
    table = Table(title="Where the distance to one read goes (one profiled run)")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("times one read", justify="right")
    for stage, seconds in profiled.stages.items():
        table.add_row(stage, f"{seconds:.3f}", f"{seconds / _median(read):.1f}")
    return table


def _growth(ours: dict[int, Measurement], reads: dict[int, Measurement]) -> Table:
    table = Table(title="Growth")
    for column in (
        "weights",
        "seconds",
        "ns a weight",
        "extra MB",
        "times a read",
    ):
        table.add_column(column, justify="right")
    for weights, found in ours.items():
        seconds = _median(found)
        table.add_row(
            f"{weights:,}",
            f"{seconds:.4f}",
            f"{seconds / weights * 1e9:.2f}",
            f"{found.extra_bytes / 1e6:.1f}",
            f"{seconds / _median(reads[weights]):.1f}",
        )
    return table


def _write(**found: Measurement) -> None:
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps({name: one.model_dump() for name, one in found.items()}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
