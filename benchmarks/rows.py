"""Run the rows of a table as jobs of one service, two at a time, and go on where an interrupted run stopped.

A row is a job for each of its seeds. Jobs are found again by a label, a digest of the spec and of every
uploaded byte: what has ended is not run twice, what was running goes on from its checkpoint.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.client import Client
from benchmarks.follow import Upload, upload_dataset, upload_model
from benchmarks.service import serving

Json = dict[str, Any]  # Any: JSON as it goes over HTTP
_POLL_S = 2.0


@dataclass(frozen=True)
class Row:
    """`spec` lacks ids and seed; a `model` "name{seed}" is another one for every seed.

    `most_drop` bars the mean drop, `control` is the label of the row that it is compared with. The artifacts
    of a row that `keeps_files` are downloaded into a folder of its label.
    """

    label: str
    model: str
    dataset: str
    spec: Json
    seeds: tuple[int, ...] = (0,)
    most_drop: float | None = None
    control: str | None = None
    keeps_files: bool = False


@dataclass(frozen=True)
class Result:
    """The reports of a row, one a seed, in the order of its seeds."""

    row: Row
    reports: tuple[Json, ...] = field(repr=False)

    def values(self, name: str) -> list[float]:
        """Return a number of the first metric, one a seed: baseline, pruned, final or drop."""
        return [report["summary"]["metrics"][0][name] for report in self.reports]


def run_rows(
    rows: Sequence[Row],
    *,
    models: Mapping[str, Upload],
    datasets: Mapping[str, Upload],
    output: Path,
    slots: int = 2,
) -> list[Result]:
    """Run every row; returns the results in order. Raises RuntimeError naming the jobs that failed."""
    console = Console()
    output.mkdir(parents=True, exist_ok=True)
    with serving(output / "data", worker_slots=slots, runner_threads=1) as url, Client(url) as client:
        ids = _submit(client, rows, models=models, datasets=datasets)
        jobs = _follow(client, ids, console)
        failed = [f"{label}: {job['error']['detail']}" for label, job in jobs.items() if job["error"]]
        if failed:
            raise RuntimeError("; ".join(failed))
        reports = {label: client.report(job["id"]) for label, job in jobs.items()}
        for row in (row for row in rows if row.keeps_files):
            for seed in row.seeds:
                _download(client, jobs[_label(row, seed)]["id"], find_files(output, row, seed))
    for label, report in reports.items():
        (output / f"{label.replace('/', '-')}.json").write_text(json.dumps(report, indent=1))
    return [Result(row, tuple(reports[_label(row, seed)] for seed in row.seeds)) for row in rows]


def find_files(output: Path, row: Row, seed: int) -> Path:
    """Return the folder with the artifacts of a row that keeps them, for one of its seeds."""
    return output / _label(row, seed).replace("/", "-")


def show_rows(results: Sequence[Result], *, title: str, is_share: bool = True) -> int:
    """Print the table with mean and spread over seeds; returns 1 when a bar is missed, else 0."""
    finals = {result.row.label: mean(result.values("final")) for result in results}
    table = Table(title=title)
    for head in ("", "seeds", "dense", "before recovery", "after", "drop", "against control", "bar"):
        table.add_column(head, justify="left" if not head else "right")
    missed = 0
    for result in results:
        row, drops = result.row, result.values("drop")
        verdict = ""
        if row.most_drop is not None:
            is_met = mean(drops) <= row.most_drop
            missed += not is_met
            verdict = f"{'met' if is_met else 'MISSED'} (≤ {_show(row.most_drop, is_share)})"
        against = (
            "" if row.control is None else f"{_signed(finals[row.label] - finals[row.control], is_share)}"
        )
        table.add_row(
            row.label,
            str(len(row.seeds)),
            _show(mean(result.values("baseline")), is_share),
            _show(mean(result.values("pruned")), is_share),
            _spread(result.values("final"), is_share),
            _spread(drops, is_share),
            against,
            verdict,
        )
    Console(width=130).print(table)
    return 1 if missed else 0


def show_finals(results: Sequence[Result], *, title: str) -> None:
    """Print what networks trained from scratch reached, mean and spread over seeds, and against a control."""
    finals = {result.row.label: mean(result.values("final")) for result in results}
    table = Table("", title=title)
    for head in ("seeds", "accuracy", "against control"):
        table.add_column(head, justify="right")
    for result in results:
        control = result.row.control
        against = "" if control is None else _signed(finals[result.row.label] - finals[control], True)
        accuracy = _spread(result.values("final"), True)
        table.add_row(result.row.label, str(len(result.reports)), accuracy, against)
    Console(width=130).print(table)


def _submit(
    client: Client, rows: Sequence[Row], *, models: Mapping[str, Upload], datasets: Mapping[str, Upload]
) -> dict[str, str]:
    """Return the job id of every row and seed, submitting those that are not there yet."""
    known = {job["labels"].get("spec"): job for job in client.jobs() if job["status"] != "failed"}
    uploaded: dict[str, str] = {}
    ids: dict[str, str] = {}
    for row in rows:
        for seed in row.seeds:
            spec = row.spec | {"seed": seed}
            model = row.model.format(seed=seed)
            # What a row is called does not decide what comes out.
            digest = _digest(spec, models[model], datasets[row.dataset])
            if digest in known:
                ids[_label(row, seed)] = known[digest]["id"]
                continue
            if f"model {model}" not in uploaded:
                uploaded[f"model {model}"] = upload_model(client, models[model])
            if f"dataset {row.dataset}" not in uploaded:
                uploaded[f"dataset {row.dataset}"] = upload_dataset(client, datasets[row.dataset])
            spec |= {
                "name": f"{row.label}, seed {seed}",
                "model_id": uploaded[f"model {model}"],
                "dataset_id": uploaded[f"dataset {row.dataset}"],
                "labels": {"spec": digest},
            }
            ids[_label(row, seed)] = client.create_job(spec)["id"]
    return ids


def _download(client: Client, job_id: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for artifact in client.artifacts(job_id):
        client.download(job_id, artifact, folder)


def _follow(client: Client, ids: Mapping[str, str], console: Console) -> dict[str, Json]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    jobs = {label: client.job(job_id) for label, job_id in ids.items()}
    with Progress(*columns, console=console) as progress:
        bars: dict[str, TaskID] = {}
        while not all(job["is_terminal"] for job in jobs.values()):
            time.sleep(_POLL_S)
            for label, job_id in ids.items():
                if not jobs[label]["is_terminal"]:
                    jobs[label] = client.job(job_id)
                    _show_progress(progress, bars, label, jobs[label])
    return jobs


def _show_progress(progress: Progress, bars: dict[str, TaskID], label: str, job: Json) -> None:
    if job["status"] == "queued":
        return
    if label not in bars:
        bars[label] = progress.add_task(label, total=1.0, said="")
    fraction = 1.0 if job["is_terminal"] else (job["progress"] or {}).get("fraction", 0.0)
    progress.update(bars[label], completed=fraction, said=job["stage"] or job["status"])


def _label(row: Row, seed: int) -> str:
    return f"{row.label}/{seed}"


def _digest(spec: Json, model: Upload, dataset: Upload) -> str:
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for upload in (model, dataset):
        digest.update(json.dumps(upload.manifest, sort_keys=True).encode())
        for name, path in sorted(upload.files.items()):
            with path.open("rb") as file:
                digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()[:32]


def _show(value: float, is_share: bool) -> str:
    return f"{100 * value:.2f} %" if is_share else f"{value:.3f}"


def _signed(value: float, is_share: bool) -> str:
    return f"{100 * value:+.2f}" if is_share else f"{value:+.3f}"


def _spread(values: Sequence[float], is_share: bool) -> str:
    shown = _signed(mean(values), is_share) if min(values) < 0 else _show(mean(values), is_share)
    return f"{shown} ± {_show(stdev(values), is_share)}" if len(values) > 1 else shown
