"""What a job computes after an attempt that the kernel killed for want of memory."""

import shutil
import signal

import pytest

from app.core.states import Stage
from tests.worker.pipeline.conftest import run_job
from worker.measure.size import digest_file
from worker.pipeline.finetune import run_finetune
from worker.pipeline.job import STATE_NAME, Job
from worker.pipeline.progress import ProgressReporter
from worker.stopping import Stopped
from worker.training.loop import Loop

SPEC = {"finetune": {"max_steps": 12, "batch_size": 64, "learning_rate": 0.05}}


class StoppingProgress(ProgressReporter):
    """Asks for the end after so many steps, as a worker that shuts down does."""

    def __init__(self, step: int) -> None:
        super().__init__(lambda message: None, Stage.FINETUNE, has_finetune=True)
        self._step = step

    def report(self, step: int, total: int, data: object = dict) -> None:
        if step == self._step:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def run(uploads, monkeypatch):
    """Return a function that runs the fine-tune of a work folder, and the steps taken: (number, halved)."""
    taken: list[tuple[int, bool]] = []
    advance = Loop.advance

    def note(self):
        found = advance(self)
        taken.append((self.step, self._training.is_halved))
        return found

    monkeypatch.setattr(Loop, "advance", note)

    def run(work, *, is_halved, stop=None, **finetune):
        spec = {"finetune": SPEC["finetune"] | finetune}
        job = Job(work, uploads.runner_input(spec, is_halved=is_halved))
        folder = job.folder(Stage.FINETUNE)
        folder.begin({"job": job.digest})
        data = run_finetune(job, folder, StoppingProgress(stop or 0))
        return data["warnings"], digest_file(folder.path / STATE_NAME)

    return run, taken


def test_it_goes_on_from_its_checkpoint_in_halves_and_comes_to_the_same_however_it_is_cut_off(run, tmp_path):
    run, taken = run
    with pytest.raises(Stopped):
        run(tmp_path / "work", is_halved=False, stop=5)
    shutil.copytree(tmp_path / "work", tmp_path / "copy")
    stopped_at = len(taken)
    assert taken == [(step, False) for step in range(1, stopped_at + 1)]
    taken.clear()

    warnings, digest = run(tmp_path / "work", is_halved=True)
    assert taken == [(step, True) for step in range(stopped_at + 1, 13)]
    assert warnings == [
        "memory ran out: the fine-tune, or what was left of it, was computed in batches of half of 64, twice "
        "as many a step, so that a step sees as many samples"
    ]
    with pytest.raises(Stopped):
        run(tmp_path / "copy", is_halved=True, stop=8)
    assert run(tmp_path / "copy", is_halved=True) == (warnings, digest)


def test_a_batch_of_one_has_no_half(run, tmp_path):
    run, _ = run
    warnings, _ = run(tmp_path / "work", is_halved=True, batch_size=1, max_steps=2)
    assert warnings == []


@pytest.mark.parametrize(("asked", "judged"), [(256, 128), (1, 1)])
def test_it_is_judged_in_halves_too(uploads, tmp_path, asked, judged):
    spec = {"evaluation": {"batch_size": asked}}
    given = uploads.runner_input(spec)
    assert Job(tmp_path, given).evaluation == given.spec.evaluation
    halved = Job(tmp_path, uploads.runner_input(spec, is_halved=True))
    assert halved.evaluation == given.spec.evaluation.model_copy(update={"batch_size": judged})
    assert halved.digest == Job(tmp_path, given).digest


def test_killed_after_its_fine_tune_it_is_judged_anew_and_trained_no_more(finished, tmp_path):
    shutil.copytree(finished.work, tmp_path / "work")
    again = run_job(tmp_path / "work", finished.given.model_copy(update={"is_halved": True}))
    assert again.skipped["finetune"]
    assert not again.skipped["evaluate"]
    (warning,) = set(again.report.warnings) - set(finished.report.warnings)
    assert "killed because memory ran out" in warning
    assert "batches of 128" in warning
    assert (finished.report.environment.determinism, again.report.environment.determinism) == (
        "bitwise",
        "tolerance",
    )
    assert again.report.summary.metrics == finished.report.summary.metrics
