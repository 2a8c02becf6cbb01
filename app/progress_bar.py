"""What the command line shows while a job runs: a bar, and what its training says."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from app.core.spec import MetricName

Json = dict[str, Any]  # Any: JSON as the service sent it

_METRICS = get_args(MetricName)
# What is told of a step, in this order: key of the event, words, format.
_TOLD = (
    ("loss", "loss", "{:.4g}"),
    ("train_loss", "loss", "{:.4g}"),
    *((name, name, "{:.4g}") for name in _METRICS),
    *(
        (f"{split}_{name}", f"{split} {name}", "{:.4g}")
        for split in ("train", "validation")
        for name in _METRICS
    ),
    ("sparsity", "sparsity", "{:.1%}"),
    ("learning_rate", "learning rate", "{:.3g}"),
    ("resumed_at", "resumed at step", "{:,.0f}"),
)


class JobProgress:
    """Two lines that follow a job by its events: how far it is, and what the last step said."""

    def __init__(self, progress: "_TwoLines") -> None:
        self._progress = progress
        self._task = progress.add_task("queued", total=1.0, step="", eta="")

    def show(self, event: Json) -> None:
        """Take the next event into the lines."""
        data = event["data"]
        if _is_number(data.get("fraction")):
            self._progress.update(self._task, completed=data["fraction"])
        if event["type"] == "job.succeeded":
            self._progress.update(self._task, completed=1.0)
        self._progress.details = ", ".join(_tell(data))
        self._progress.update(
            self._task,
            description=_tell_state(event),
            step=_tell_step(data),
            eta=_tell_eta(data.get("eta_s")),
        )


@contextmanager
def job_progress(console: Console) -> Iterator[JobProgress]:
    """Show a progress bar while a job is followed."""
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[step]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[eta]}"),
    )
    with _TwoLines(*columns, console=console, transient=not console.is_terminal) as progress:
        yield JobProgress(progress)


class _TwoLines(Progress):
    """A bar with a line of text below it."""

    details = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.details, style="dim", no_wrap=True, overflow="ellipsis")


def _tell_state(event: Json) -> str:
    """Say the stage, or what became of the job; a pause that was asked for has not come yet."""
    if event["type"] == "pause.requested":
        return "pausing"
    return str(event["stage"] or event["type"].removeprefix("job."))


def _tell(data: Json) -> Iterator[str]:
    for key, words, form in _TOLD:
        if _is_number(data.get(key)):
            yield f"{words} {form.format(data[key])}"


def _tell_step(data: Json) -> str:
    step, total = data.get("step"), data.get("total")
    return f"step {step:,}/{total:,}" if _is_number(step) and _is_number(total) and total else ""


def _tell_eta(eta_s: object) -> str:
    """Say how long the stage still takes; an estimate of a second or less is none."""
    if not isinstance(eta_s, int | float) or eta_s < 1:
        return ""
    minutes, seconds = divmod(round(eta_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
