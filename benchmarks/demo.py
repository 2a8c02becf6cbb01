"""`make demo`: train a small ResNet, prune it over HTTP, print dense against pruned."""

import shutil
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from app.client import Client
from benchmarks import digits
from benchmarks.follow import Upload, run_job
from benchmarks.service import serving

OUTPUT = Path("demo-output")
SPEC = {
    "name": "digits, 70 % global magnitude",
    "recipe": {
        "criterion": {"name": "magnitude"},
        "pattern": {"name": "unstructured"},
        "allocation": {"name": "global"},
        "target": {"metric": "sparsity", "value": 0.7},
        "schedule": {"name": "cubic"},
    },
    "finetune": {
        "epochs": 20,
        "batch_size": 64,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        # A mirrored digit is no digit.
        "augment": False,
        "distillation": {"alpha": 0.5, "temperature": 4.0},
    },
}


def main() -> int:
    """Run the demo; returns the exit code."""
    # One thread here, one in the worker: two processes with two threads each would be five times slower.
    torch.set_num_threads(1)
    console = Console()
    started = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    inputs = OUTPUT / "inputs"
    inputs.mkdir(parents=True)
    model, dataset = _prepare(inputs, console)
    with serving(OUTPUT / "data") as url, Client(url) as client:
        console.print(f"\n[bold]2.[/] `secateur serve` runs on {url}; uploading model and dataset over HTTP")
        run_job(client, console, SPEC, model=model, dataset=dataset, output=OUTPUT / "result")
    console.print(f"\n[bold]3.[/] report: {OUTPUT / 'result' / 'report.json'}, pruned model beside it")
    console.print(f"Done in {time.monotonic() - started:.0f} s. To keep a service: .venv/bin/secateur serve")
    return 0


def _prepare(folder: Path, console: Console) -> tuple[Upload, Upload]:
    train, test = digits.load_splits()
    counts = f"{len(train.y):,} train and {len(test.y):,} test images"
    console.print(f"[bold]1.[/] scikit-learn's handwritten digits: {counts}")
    epochs = track(digits.train_dense(train, folder / "dense.safetensors"), "training", digits.EPOCHS)
    for _ in epochs:
        pass
    files = {
        name: digits.save_split(s, folder / f"{name}.npz") for name, s in (("train", train), ("test", test))
    }
    model = Upload(
        {"weights": folder / "dense.safetensors"}, {"name": "digits", "architecture": digits.ARCHITECTURE}
    )
    return model, Upload(files, {"name": "digits", "layout": "NCHW"})


if __name__ == "__main__":
    sys.exit(main())
