"""Targets of accuracy_drop: each size that is tried is trained for a moment first, and judged once."""

import os
import signal
from itertools import count

import pytest
import torch
from safetensors.torch import load_file

from app.core.errors import NonfiniteAnswers
from app.core.states import Stage
from tests.worker.pipeline.conftest import run_job
from tests.worker.pipeline.test_structure import STRUCTURE, make_spec
from worker.pipeline.accuracy_drop import AccuracyDrop
from worker.pipeline.job import Job
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.stages import run_stages
from worker.protocol import Progress
from worker.stopping import Stopped
from worker.training.loop import Loop

ASKED = STRUCTURE | {"target": {"metric": "accuracy_drop", "value": 0.03}}
FINETUNE = {"max_steps": 200, "batch_size": 64, "learning_rate": 0.05, "probe_fraction": 0.1}


class Killed(Exception):
    """The process is gone."""


def test_the_most_is_cut_that_the_allowed_drop_leaves(uploads, tmp_path):
    target = {"metric": "accuracy_drop", "value": 0.05}
    run = run_job(tmp_path / "work", make_spec(uploads, structure=STRUCTURE | {"target": target}))
    metric = run.report.summary.metrics[0]
    assert metric.drop <= 0.05
    assert metric.drop == pytest.approx(run.report.structure.after)
    assert run.report.summary.parameters.after < run.report.summary.parameters.before
    assert any("chosen by the accuracy of the test split" in warning for warning in run.report.warnings)


@pytest.fixture(scope="module")
def undisturbed(uploads, tmp_path_factory):
    """The digits' network searched with training, by one attempt; look, and change nothing."""
    given = make_spec(uploads, structure=ASKED, finetune=FINETUNE)
    return run_job(tmp_path_factory.mktemp("undisturbed"), given)


def test_what_a_short_training_brings_back_may_go_too(uploads, tmp_path, undisturbed):
    finetune = FINETUNE | {"probe_fraction": 0.0}
    as_cut = run_job(tmp_path / "cut", make_spec(uploads, structure=ASKED, finetune=finetune)).report
    trained = undisturbed.report
    assert (as_cut.structure.probe_steps, trained.structure.probe_steps) == (0, 20)
    assert trained.summary.parameters.after < as_cut.summary.parameters.after
    assert trained.structure.after <= 0.03


def test_an_attempt_that_was_killed_leaves_what_it_judged_to_the_next(
    uploads, tmp_path, monkeypatch, undisturbed
):
    given = make_spec(uploads, structure=ASKED, finetune=FINETUNE)
    judge, judged = AccuracyDrop._measure, []

    def watch(self, module):
        if len(judged) == 3:
            judged.append(None)
            raise Killed
        judged.append(module)
        return judge(self, module)

    monkeypatch.setattr(AccuracyDrop, "_measure", watch)
    with pytest.raises(Killed):
        run_stages(Job(tmp_path / "killed", given), lambda _: None)
    resumed = run_job(tmp_path / "killed", given)
    (probes,) = undisturbed.report.structure.probes
    # The whole model and every size once, but for the one that was begun and not finished.
    assert len(judged) - 1 == len({0, *(probe.removed for probe in probes)})
    assert resumed.report.structure == undisturbed.report.structure
    digests = [load_file(run.output / "artifacts" / "model.safetensors") for run in (undisturbed, resumed)]
    assert all(torch.equal(digests[0][name], digests[1][name]) for name in digests[0])


def test_a_size_that_answers_nan_costs_too_much_and_the_search_goes_on(uploads, tmp_path, monkeypatch):
    measure = AccuracyDrop._measure

    def answer(self, module):
        if sum(parameter.numel() for parameter in module.parameters()) < 3_000:
            raise NonfiniteAnswers("the model answers NaN")
        return measure(self, module)

    monkeypatch.setattr(AccuracyDrop, "_measure", answer)
    target = {"metric": "accuracy_drop", "value": 0.2}
    given = make_spec(uploads, structure=STRUCTURE | {"target": target}, finetune=FINETUNE)
    report = run_job(tmp_path / "work", given).report
    parameters = report.summary.parameters
    assert 3_000 <= parameters.after < parameters.before
    warnings = [warning for warning in report.warnings if "counts as one of accuracy 0" in warning]
    assert warnings
    assert all("answers NaN" in warning for warning in warnings)


class Bench:
    """A search for a size, in a folder of its own: the whole network, and another one to judge."""

    def __init__(self, work, given, scale=0.5) -> None:
        job = Job(work, given)
        folder = job.folder(Stage.PRUNE)
        folder.begin({})
        self.sent: list = []
        seconds = count()  # each is over a second after the last, so that every message goes out
        progress = ProgressReporter(
            self.sent.append, Stage.PRUNE, has_finetune=True, clock=lambda: 2.0 * next(seconds)
        )
        whole, self.other = (job.read_dense().network.module for _ in range(2))
        with torch.no_grad():
            for parameter in self.other.parameters():
                parameter.mul_(scale)
        self.before = {name: tensor.clone() for name, tensor in self.other.state_dict().items()}
        self.measure_drop = AccuracyDrop(job, folder, progress, whole, settle=lambda _: None)

    def is_unchanged(self) -> bool:
        state = self.other.state_dict()
        return all(torch.equal(state[name], tensor) for name, tensor in self.before.items())


@pytest.mark.parametrize("ends", ["killed", "stopped"])
def test_a_training_of_a_probe_goes_on_where_it_ended(uploads, tmp_path, monkeypatch, ends):
    given = make_spec(uploads, structure=ASKED, finetune=FINETUNE, resources={"checkpoint_s": 0.0})
    advance, measure, taken, trained = Loop.advance, AccuracyDrop._measure, [], []

    def keep(self, module):
        trained.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        return measure(self, module)

    def end(self):
        taken.append(self.step)
        if len(taken) == 8 and ends == "killed":
            raise Killed
        if len(taken) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(self)

    monkeypatch.setattr(AccuracyDrop, "_measure", keep)
    undisturbed = Bench(tmp_path / "undisturbed", given)
    drop = undisturbed.measure_drop(undisturbed.other)
    monkeypatch.setattr(Loop, "advance", end)
    first = Bench(tmp_path / "work", given)
    with pytest.raises(Killed if ends == "killed" else Stopped):
        first.measure_drop(first.other)
    second = Bench(tmp_path / "work", given)
    assert second.measure_drop(second.other) == drop
    # A step that ended without a checkpoint is taken again, and none else.
    assert sorted(taken) == sorted([*range(20), *([7] if ends == "killed" else [])])
    assert all(torch.equal(tensor, trained[-1][name]) for name, tensor in trained[1].items())
    resumed = [m.data["resumed_at"] for m in second.sent if isinstance(m, Progress) and m.data]
    # The whole model's place among the probes is counted as twenty steps.
    assert resumed[0] == (27 if ends == "killed" else 28)
    assert all(bench.is_unchanged() for bench in (undisturbed, first, second))


def test_a_probe_that_memory_is_too_small_for_is_trained_in_halves_and_leaves_the_model_alone(
    uploads, tmp_path, monkeypatch
):
    advance, halved = Loop.advance, []

    def run_out(self):
        halved.append(self._training.is_halved)
        found = advance(self)
        if not self._training.is_halved and self.step == 3:
            raise torch.OutOfMemoryError("no memory")
        return found

    monkeypatch.setattr(Loop, "advance", run_out)
    bench = Bench(tmp_path / "work", make_spec(uploads, structure=ASKED, finetune=FINETUNE))
    drop = bench.measure_drop(bench.other)
    assert halved == [False] * 3 + [True] * 20
    assert -1.0 <= drop <= 1.0
    assert bench.is_unchanged()
    assert all(parameter.grad is None for parameter in bench.other.parameters())


@pytest.mark.parametrize("probe_fraction", [0.1, 0.0], ids=["trained", "as_cut"])
def test_a_model_that_diverges_costs_all_accuracy_once_and_comes_back_as_it_was(
    uploads, tmp_path, probe_fraction
):
    finetune = FINETUNE | {"probe_fraction": probe_fraction}
    given = make_spec(uploads, structure=ASKED, finetune=finetune)
    first = Bench(tmp_path / "work", given, scale=1e30)
    drop = first.measure_drop(first.other)
    assert drop == first.measure_drop._dense > 0.5
    assert first.is_unchanged()
    assert all(parameter.grad is None for parameter in first.other.parameters())
    second = Bench(tmp_path / "work", given, scale=1e30)
    assert second.measure_drop.warnings == first.measure_drop.warnings
    assert second.measure_drop(second.other) == drop
    assert len(second.measure_drop.warnings) == 1


def test_a_whole_model_that_answers_nan_ends_the_job(uploads, tmp_path, monkeypatch):
    def answer(self, module):
        raise NonfiniteAnswers("the model answers NaN")

    monkeypatch.setattr(AccuracyDrop, "_measure", answer)
    with pytest.raises(NonfiniteAnswers):
        Bench(tmp_path / "work", make_spec(uploads, structure=ASKED, finetune=FINETUNE))


def test_progress_counts_the_sizes_of_every_round(uploads, tmp_path):
    bench = Bench(tmp_path / "work", make_spec(uploads, structure=ASKED | {"rounds": 3}, finetune=FINETUNE))
    bench.measure_drop(bench.other)
    told = [message for message in bench.sent if isinstance(message, Progress)]
    # The whole network is judged once, and twelve sizes a round, each after 20 steps.
    assert {message.total for message in told} == {(1 + 3 * 12) * 20}
