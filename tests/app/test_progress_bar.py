"""The lines that follow a job, as a terminal shows them."""

import io
import re

import pytest
from rich.console import Console

from app.progress_bar import job_progress

STEP = {
    "fraction": 0.42,
    "step": 1_200,
    "total": 3_910,
    "eta_s": 83.4,
    "train_loss": 0.43125,
    "train_accuracy": 0.912345,
    "sparsity": 0.6321,
    "learning_rate": 0.0125,
}


def render(*events: dict) -> str:
    """Show events to a terminal of 100 columns; returns what stands there at the end."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with job_progress(console) as progress:
        for event in events:
            progress.show({"type": "progress", "stage": "finetune", "data": {}} | event)
    last_frame = console.file.getvalue().split("\x1b[1A\x1b[2K")[-1]
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", last_frame)


def test_a_step_is_told_in_two_lines():
    first, second = render({"data": STEP}).strip().splitlines()[-2:]
    for part in ("finetune", " 42%", "step 1,200/3,910", "1:23 left"):
        assert part in first
    assert second.strip() == "loss 0.4313, train accuracy 0.9123, sparsity 63.2%, learning rate 0.0125"


def test_what_the_validation_split_said_last_is_told():
    shown = render({"data": STEP | {"validation_accuracy": 0.9}})
    assert "train accuracy 0.9123, validation accuracy 0.9, sparsity 63.2%" in shown


@pytest.mark.parametrize(
    ("eta_s", "said"), [(0.4, ""), (None, ""), (59.6, "1:00 left"), (3_725, "1:02:05 left")]
)
def test_the_time_that_is_left_is_told_where_it_is_known(eta_s, said):
    shown = render({"data": STEP | {"eta_s": eta_s}})
    assert said in shown
    assert ("left" in shown) == bool(said)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"loss": 2.5, "perplexity": 12.1825}, "loss 2.5, perplexity 12.18"),
        ({"resumed_at": 4_000}, "resumed at step 4,000"),
        ({"sparsity": None, "accuracy": "high", "mse": True, "f1": 0.5, "new_key": 3}, "f1 0.5"),
    ],
)
def test_what_a_step_does_not_say_is_left_out(data, said):
    assert render({"data": data}).strip().splitlines()[-1].strip() == said


def test_the_next_stage_begins_with_nothing_of_the_last():
    shown = render({"data": STEP}, {"type": "stage.started", "stage": "evaluate"})
    assert "evaluate" in shown
    assert "loss" not in shown
    assert "1,200" not in shown
    assert " 42%" in shown


def test_a_stage_that_ended_shows_what_it_measured():
    event = {"type": "stage.finished", "stage": "evaluate", "data": {"accuracy": 0.98, "n": 540}}
    assert "accuracy 0.98" in render(event)


def test_a_job_that_succeeded_is_whole():
    assert "100%" in render({"data": STEP}, {"type": "job.succeeded", "stage": None, "data": {}})


def test_a_log_is_not_filled_with_bars():
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    with job_progress(console) as progress:
        for _ in range(50):
            progress.show({"type": "progress", "stage": "finetune", "data": STEP})
    assert len(console.file.getvalue().splitlines()) <= 3
