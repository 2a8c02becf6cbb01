"""`make bench-cut-latency`: half of the products cut out of five networks, and what that saves in time.

Dense and cut run by turns in one process, on one thread, with torch and with onnxruntime, in batches of 1
and 64; the weights are drawn, since times do not depend on them. The bar: at a batch of 64 the speed-up is at
least 80 % of the ratio of products. Where it is missed, a table says in which layers the time stays. Needs
quiet cores; then it takes less than ten minutes.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.layer_times import Share, time_layers
from benchmarks.onnx_session import make_session
from worker.measure.intervals import compute_speedup_interval
from worker.measure.macs import count_macs
from worker.models.inputs import Inputs, compute_logits
from worker.models.registry import build
from worker.pruning.removal import shrink

RUNTIMES: Final = ("torch", "onnxruntime")
_BATCHES: Final = (1, 64)
_HALF: Final = 0.5
_BAR: Final = 0.8
_BUDGET_S: Final = 12.0
_MOST_PAIRS, _FEWEST_PAIRS = 40, 4
_WARMUP_PAIRS: Final = 1
_TOKENS: Final = 64
_SHOWN_LAYERS: Final = 8
Json = dict[str, Any]  # Any: JSON
_IMAGES: Final = {"resnet-20": 32, "resnet-56": 32, "resnet-50": 224, "mobilenet-v2": 224}
NETWORKS: Final = (*_IMAGES, "minilm-l6")


@dataclass(frozen=True)
class Cell:
    """One network under one runtime at one batch size; milliseconds of a batch, taken by turns."""

    runtime: str
    batch_size: int
    dense_ms: np.ndarray
    cut_ms: np.ndarray

    @property
    def speedup(self) -> float:
        return float(np.median(self.dense_ms) / np.median(self.cut_ms))


def main(arguments: list[str] | None = None) -> int:
    """Print the table and the reasons; returns 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--multiple-of", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=_BUDGET_S, help="spent on a cell at most, or so")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console, table = Console(width=120), _make_table()
    missed: list[tuple[str, float, list[Share]]] = []
    for name in given.networks:
        dense, cut = (_make(name)[0] for _ in range(2))
        inputs = _make(name)[1]
        ratio = _cut_half(cut, inputs(2), multiple_of=given.multiple_of)
        for cell in _measure(dense, cut, inputs, seconds=given.seconds):
            bar = _BAR * ratio if cell.batch_size == max(_BATCHES) else None
            _add_row(table, name, ratio, cell, bar)
            console.print(f"{name}, {cell.runtime}, batch {cell.batch_size}: {cell.speedup:.2f}")
            if bar is not None and cell.speedup < bar:
                shares = time_layers(dense, cut, inputs(cell.batch_size)) if cell.runtime == "torch" else []
                missed.append((f"{name}, {cell.runtime}", ratio, shares))
    console.print(table)
    for label, ratio, shares in missed:
        _explain(console, label, ratio, shares)
    return 1 if missed else 0


def _make(name: str) -> tuple[nn.Module, Callable[[int], Inputs]]:
    """Return a network of drawn weights, the same at every call, and how to make its inputs."""
    torch.manual_seed(0)
    if name in _IMAGES:
        size = _IMAGES[name]
        model: nn.Module = build({"library": "secateur", "name": name, "params": {}}).module
        return model.eval(), lambda n: _draw_images(n, size)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=2
    )
    model = BertForSequenceClassification._from_config(config, attn_implementation="sdpa")
    return model.eval(), _draw_texts


def _draw_images(n: int, size: int) -> Tensor:
    images = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))
    return images.contiguous(memory_format=torch.channels_last)


def _draw_texts(n: int) -> dict[str, Tensor]:
    drawn = torch.randint(1000, 20_000, (n, _TOKENS), generator=torch.Generator().manual_seed(n))
    return {"input_ids": drawn, "attention_mask": torch.ones_like(drawn)}


def _cut_half(model: nn.Module, sample: Inputs, *, multiple_of: int) -> float:
    """Cut half of the products out; returns how many times fewer they are."""
    one = {k: v[:1] for k, v in sample.items()} if isinstance(sample, dict) else sample[:1]  # type: ignore[index]
    whole = float(count_macs(model, one).total)
    structure = {
        "target": {"metric": "macs", "value": _HALF * whole},
        "ranking": "uniform" if isinstance(sample, dict) else "isomorphic",
        "multiple_of": multiple_of,
    }
    found = shrink(
        model,
        structure,
        [(sample, torch.zeros(2, dtype=torch.int64))],
        measures={"macs": lambda module: float(count_macs(module, one).total)},
    )
    return whole / found.after


def _measure(
    dense: nn.Module, cut: nn.Module, inputs: Callable[[int], Inputs], *, seconds: float
) -> Iterator[Cell]:
    for batch_size in _BATCHES:
        batch = inputs(batch_size)
        for runtime in RUNTIMES:
            if runtime == "torch":
                runs = [_run_torch(model, batch) for model in (dense, cut)]
            else:
                runs = [make_session(model, batch) for model in (dense, cut)]
            times = _time_pairs(runs[0], runs[1], seconds=seconds)
            yield Cell(runtime, batch_size, times[:, 0], times[:, 1])


def _run_torch(model: nn.Module, batch: Inputs) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return compute_logits(model, batch)

    return run


def _time_pairs(dense: Callable[[], object], cut: Callable[[], object], *, seconds: float) -> np.ndarray:
    """Run both by turns, the second first in every other pair, as often as the seconds allow."""
    for run in (dense, cut) * _WARMUP_PAIRS:
        run()
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < _FEWEST_PAIRS or (len(pairs) < _MOST_PAIRS and time.perf_counter() < end):
        if len(pairs) % 2:
            cut_ms = _time_ms(cut)
            pairs.append((_time_ms(dense), cut_ms))
        else:
            pairs.append((_time_ms(dense), _time_ms(cut)))
    return np.array(pairs)


def _time_ms(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def _make_table() -> Table:
    table = Table(title="Half of the products cut out; one thread, dense and cut by turns")
    for head in (
        "network",
        "runtime",
        "batch",
        "products",
        "dense",
        "cut",
        "speed-up",
        "of the ratio",
        "bar",
    ):
        table.add_column(head, justify="left" if head in ("network", "runtime") else "right")
    return table


def _add_row(table: Table, name: str, ratio: float, cell: Cell, bar: float | None) -> None:
    low, high = compute_speedup_interval(cell.dense_ms, cell.cut_ms)
    verdict = "" if bar is None else "met" if cell.speedup >= bar else "MISSED"
    table.add_row(
        name,
        cell.runtime,
        str(cell.batch_size),
        f"/ {ratio:.2f}",
        f"{np.median(cell.dense_ms):.1f} ms",
        f"{np.median(cell.cut_ms):.1f} ms",
        f"{cell.speedup:.2f} ({low:.2f} to {high:.2f})",
        f"{cell.speedup / ratio:.0%}",
        verdict,
    )


def _explain(console: Console, label: str, ratio: float, shares: list[Share]) -> None:
    """Print where the time stays: the layers that are farthest behind the ratio of the whole."""
    if not shares:
        console.print(f"{label}: missed; torch's layers above and below say where time stays")
        return
    table = Table("layer", "what", title=f"{label}: where the time stays that the ratio {ratio:.2f} promises")
    for head in ("products", "dense", "cut", "speed-up", "behind"):
        table.add_column(head, justify="right")
    worst = sorted(shares, key=lambda share: share.behind_ms(ratio), reverse=True)
    for share in worst[:_SHOWN_LAYERS]:
        fewer = "none" if not share.dense_macs else f"/ {share.dense_macs / max(share.cut_macs, 1):.2f}"
        table.add_row(
            share.name,
            share.what,
            fewer,
            f"{share.dense_ms:.2f} ms",
            f"{share.cut_ms:.2f} ms",
            f"{share.dense_ms / share.cut_ms:.2f}",
            f"{share.behind_ms(ratio):+.2f} ms",
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
