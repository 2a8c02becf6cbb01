"""Targets of accuracy_drop: each size that is tried is trained for a moment first, and judged once."""

import pytest
import torch
from safetensors.torch import load_file

from app.core.states import Stage
from tests.worker.pipeline.conftest import run_job
from tests.worker.pipeline.test_structure import STRUCTURE, make_spec
from worker.pipeline.accuracy_drop import AccuracyDrop
from worker.pipeline.job import Job
from worker.pipeline.progress import ProgressReporter
from worker.pipeline.stages import run_stages
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


def test_what_a_short_training_brings_back_may_go_too(uploads, tmp_path):
    as_cut, trained = (
        run_job(tmp_path / name, make_spec(uploads, structure=ASKED, finetune=FINETUNE | changes)).report
        for name, changes in (("cut", {"probe_fraction": 0.0}), ("trained", {}))
    )
    assert (as_cut.structure.probe_steps, trained.structure.probe_steps) == (0, 20)
    assert trained.summary.parameters.after < as_cut.summary.parameters.after
    assert trained.structure.after <= 0.03


def test_an_attempt_that_was_killed_leaves_what_it_judged_to_the_next(uploads, tmp_path, monkeypatch):
    given = make_spec(uploads, structure=ASKED, finetune=FINETUNE)
    undisturbed = run_job(tmp_path / "undisturbed", given)
    judge, judged = AccuracyDrop._measure, []

    def count(self, module):
        if len(judged) == 3:
            judged.append(None)
            raise Killed
        judged.append(module)
        return judge(self, module)

    monkeypatch.setattr(AccuracyDrop, "_measure", count)
    with pytest.raises(Killed):
        run_stages(Job(tmp_path / "killed", given), lambda _: None)
    resumed = run_job(tmp_path / "killed", given)
    (probes,) = undisturbed.report.structure.probes
    # The whole model and every size once, but for the one that was begun and not finished.
    assert len(judged) - 1 == len({0, *(probe.removed for probe in probes)})
    assert resumed.report.structure == undisturbed.report.structure
    digests = [load_file(run.output / "artifacts" / "model.safetensors") for run in (undisturbed, resumed)]
    assert all(torch.equal(digests[0][name], digests[1][name]) for name in digests[0])


def test_a_probe_that_memory_is_too_small_for_is_trained_in_halves_and_leaves_the_model_alone(
    uploads, tmp_path, monkeypatch
):
    given = make_spec(uploads, structure=ASKED, finetune=FINETUNE)
    advance, halved = Loop.advance, []

    def run_out(self):
        halved.append(self._training.is_halved)
        found = advance(self)
        if not self._training.is_halved and self.step == 3:
            raise torch.OutOfMemoryError("no memory")
        return found

    monkeypatch.setattr(Loop, "advance", run_out)
    job = Job(tmp_path / "work", given)
    folder = job.folder(Stage.PRUNE)
    folder.begin({})
    progress = ProgressReporter(lambda _: None, Stage.PRUNE, has_finetune=True)
    whole, other = (job.read_dense().network.module for _ in range(2))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    drop = AccuracyDrop(job, folder, progress, whole, settle=lambda _: None)(other)
    assert halved == [False] * 3 + [True] * 20
    assert -1.0 <= drop <= 1.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    assert all(parameter.grad is None for parameter in other.parameters())
