"""`make bench-cut-resnet56`: ResNet-56 on CIFAR-10 with 2.57 times fewer products, beside torch-pruning.

That ratio is the one of the published tables (Fang et al. 2023, arXiv:2301.12900). All that is cut trains for
the same steps with the same settings, data, teacher and loop, each run on one thread and for about half an
hour: six epochs in bfloat16, or two where the CPU has no bfloat16. The dense control trains as long by the
clock: its steps take longer, so it takes two thirds of the epochs, at least one. What is cut, and in what
order, was chosen by what is left before any training, on images of the train split: docs/structure.md.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cifar import CifarMissing, prepare_cifar
from benchmarks.peer import FORMS, RESULT
from benchmarks.rows import Result, Row, run_rows, show_rows
from worker.training.precision import computes_in_bfloat16

OUTPUT: Final = Path("bench-output") / "cut-resnet56"
RATIO: Final = 2.57
_DENSE_MACS: Final = 125_485_696
_MOST_DROP: Final = 0.003
# Of half an hour: in bfloat16, and in float32.
_EPOCHS: Final = {True: 6, False: 2}
_CONTROL: Final = "dense, as long"
Json = dict[str, Any]  # Any: JSON
# What the residual streams carry is cut last: every block reads it.
STREAMS: Final = ("conv1", "layer?.0.conv2")
STRUCTURE: Final[Json] = {
    "target": {"metric": "macs", "value": _DENSE_MACS / RATIO},
    "criterion": {"name": "magnitude", "params": {"p": 2.0}},
    "aggregation": "sum",
    "ranking": "global",
    "rounds": 8,
    "layers": [{"match": name, "set": {"sparsity": 0.0}} for name in STREAMS],
}


def main(arguments: list[str] | None = None) -> int:
    """Run ours and the control side by side, then the peer's two forms; returns 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    epochs = _EPOCHS[computes_in_bfloat16(torch.device("cpu"))]
    parser.add_argument("--epochs", type=int, default=epochs, help=f"train so many (here {epochs})")
    parser.add_argument("--steps", type=int, help="train so many steps only, to see that it runs")
    parsed = parser.parse_args(arguments)
    output = OUTPUT.with_name(f"{OUTPUT.name}-{parsed.epochs}-epochs")
    length, as_long = {"epochs": parsed.epochs}, {"epochs": max(1, parsed.epochs * 2 // 3)}
    if parsed.steps is not None:
        output = OUTPUT.with_name(f"{OUTPUT.name}-{parsed.steps}-steps")
        length = as_long = {"max_steps": parsed.steps}
    try:
        model, dataset = prepare_cifar(output / "inputs", "resnet56")
    except CifarMissing as error:
        print(f"bench-cut-resnet56: {error}", file=sys.stderr)
        return 2
    (output / "inputs" / "dataset.json").write_text(json.dumps(dataset.manifest))
    rows = _rows(_finetune(length), _finetune(as_long))
    results = run_rows(rows, models={"resnet56": model}, datasets={"cifar10": dataset}, output=output)
    status = show_rows(results, title=f"ResNet-56, CIFAR-10, 5,000 test images, products / {RATIO}")
    show_beside(results[0], run_peers(output, _finetune(length)))
    return status


def run_peers(output: Path, finetune: Json) -> list[Json]:
    """Cut and train with torch-pruning, both forms side by side; what is done already is only read."""
    folders = {form: output / f"torch-pruning-{form}" for form in FORMS}
    running = []
    for form, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / RESULT).is_file():
            continue
        command = [sys.executable, "-m", "benchmarks.peer", "--form", form, "--output", str(folder)]
        command += ["--inputs", str(output / "inputs"), "--macs", str(STRUCTURE["target"]["value"])]
        command += ["--finetune", json.dumps(finetune)]
        env = dict(os.environ) | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        running.append(subprocess.Popen(command, env=env))
    failed = [process.args for process in running if process.wait() != 0]
    if failed:
        raise RuntimeError(f"torch-pruning did not end: {failed}")
    return [json.loads((folder / RESULT).read_text()) for folder in folders.values()]


def show_beside(ours: Result, peers: Sequence[Json]) -> None:
    """Print what the same products are worth after the same training."""
    table = Table("", title="The same products, the same training")
    for head in ("products", "ratio", "before recovery", "after", "drop"):
        table.add_column(head, justify="right")
    report = ours.reports[0]["summary"]
    metric, macs = report["metrics"][0], report["macs"]
    found = {"Secateur": metric | {"macs_before": macs["before"], "macs_after": macs["after"]}}
    found |= {f"torch-pruning, {peer['form']}": peer for peer in peers}
    for label, row in found.items():
        before, after = row["macs_before"], row["macs_after"]
        shares = [f"{100 * row[name]:.2f} %" for name in ("pruned", "final")]
        table.add_row(
            label, f"{after:,.0f}", f"{before / after:.2f}", *shares, f"{100 * row['drop']:+.2f} points"
        )
    Console(width=130).print(table)


def _rows(finetune: Json, control: Json) -> list[Row]:
    cut = {"structure": STRUCTURE, "finetune": finetune}
    dense = {"recipe": {"target": {"metric": "sparsity", "value": 0.0}}, "finetune": control}
    measured = {"evaluation": {"latency": None}}
    return [
        Row("cut", "resnet56", "cifar10", cut | measured, most_drop=_MOST_DROP, control=_CONTROL),
        Row(_CONTROL, "resnet56", "cifar10", dense | measured),
    ]


def _finetune(length: Json) -> Json:
    return length | {
        "batch_size": 128,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "weight_decay": 1e-4,
        "augment": True,
        "precision": "bfloat16",
        "distillation": {"alpha": 0.9, "temperature": 4.0},
    }


if __name__ == "__main__":
    sys.exit(main())
