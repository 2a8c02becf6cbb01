"""What the command line shows: a progress bar, a refusal, the summary of a report."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.client import ApiError

Json = dict[str, Any]  # Any: JSON as the service sent it


class JobProgress:
    """One line that follows a job by its events."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("queued", total=1.0)

    def show(self, event: Json) -> None:
        """Take the next event into the line."""
        fraction = event["data"].get("fraction")
        if isinstance(fraction, int | float):
            self._progress.update(self._task, completed=fraction)
        if event["type"] == "job.succeeded":
            self._progress.update(self._task, completed=1.0)
        label = event["stage"] if event["stage"] else event["type"].removeprefix("job.")
        self._progress.update(self._task, description=label)


@contextmanager
def job_progress(console: Console) -> Iterator[JobProgress]:
    """Show a progress bar while a job is followed."""
    columns = (TextColumn("{task.description:<16}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        yield JobProgress(progress)


def show_refusal(console: Console, error: ApiError) -> None:
    """Print what the service refused, each fault on its line."""
    console.print(f"{error.code}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    for item in error.problem.get("errors", ()):
        console.print(
            f"  {item['pointer'] or '/'}: {item['detail']}", markup=False, highlight=False, soft_wrap=True
        )
    if request_id := error.problem.get("request_id"):
        console.print(f"  request {request_id}", style="dim", markup=False, highlight=False, soft_wrap=True)


def show_job(console: Console, job: Json) -> None:
    """Print how a job stands, and why it failed."""
    console.print(f"{job['id']} {job['status']}", markup=False, highlight=False)
    if job["error"]:
        console.print(f"  {job['error']['code']}: {job['error']['detail']}", style="red", markup=False)
    for gate in job["gates"]["results"]:
        text = f"  gate {gate['metric']} {gate['op']} {gate['value']}: {gate['outcome']} ({gate['measured']})"
        console.print(text, markup=False, highlight=False)


def show_report(console: Console, report: Json) -> None:
    """Print dense against pruned, and in sentences below it what the numbers mean."""
    summary = report["summary"]
    size, macs = summary["size_bytes"], summary["macs"]
    table = Table("", "dense", "pruned", box=None, pad_edge=False)
    for metric in summary["metrics"]:
        name = f"{metric['name']} on {metric['split']}"
        table.add_row(name, f"{metric['baseline']:.4f}", f"{metric['final']:.4f}")
        table.add_row("  95 % interval", _interval(metric["baseline_ci95"]), _interval(metric["final_ci95"]))
        table.add_row("  before recovery", "", f"{metric['pruned']:.4f}")
    for label, row in (("parameters", summary["parameters"]), ("  not zero", summary["nonzero"])):
        table.add_row(label, f"{row['before']:,}", f"{row['after']:,}")
    table.add_row("bytes", f"{size['dense_before']:,}", f"{size['artifact']:,}")
    table.add_row("  compressed", f"{size['compressed_before']:,}", f"{size['compressed']:,}")
    table.add_row("MACs", f"{macs['before']:,}", f"{macs['after']:,}")
    table.add_row("  by a weight not zero", "", f"{macs['effective']:,}")
    for row in summary["latency"]:
        label = f"ms, batch {row['batch_size']}, {row['device']}"
        table.add_row(label, f"{row['baseline_ms']['p50']:.3f}", f"{row['final_ms']['p50']:.3f}")
    console.print(table)
    console.print()
    for sentence in _sentences(summary):
        console.print(sentence, markup=False, highlight=False)
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", style="yellow", markup=False)


def _sentences(summary: Json) -> Iterator[str]:
    sparsity = summary["sparsity"]
    yield f"{sparsity['prunable']:.2%} of the prunable and {sparsity['total']:.2%} of all weights are zero."
    for metric in summary["metrics"]:
        low, high = metric["drop_ci95"]
        drop = f"{metric['drop']:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, n = {metric['n']:,})"
        yield f"Drop in {metric['name']}: {drop}, measured on the same samples."
    for row in summary["latency"]:
        yield str(row["why"])


def _interval(ends: list[float]) -> str:
    return f"{ends[0]:.4f} to {ends[1]:.4f}"
