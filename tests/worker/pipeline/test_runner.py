"""The runner as its supervisor sees it: a process that can be killed at any moment."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.digits import ARCHITECTURE
from tests.worker.conftest import RUNNERS
from tests.worker.pipeline.conftest import run_job
from worker.forks.client import Spawner, Starter
from worker.protocol import INPUT_NAME, MESSAGE, CheckInput, CheckOutput, Finished, RunnerMessage

LONG = {"finetune": {"epochs": 10_000, "batch_size": 64}}


class Running:
    """A runner and its streams."""

    def __init__(self, work: Path, starter: Starter) -> None:
        (stdin, lifeline), (messages, stdout) = os.pipe(), os.pipe()
        self.lifeline, self._messages = os.fdopen(lifeline, "wb"), os.fdopen(messages)
        with Path(os.devnull).open("wb") as nowhere:
            self._child = starter.start([str(work)], stdin=stdin, stdout=stdout, stderr=nowhere.fileno())
        os.close(stdin)
        os.close(stdout)

    def read(self) -> Iterator[RunnerMessage]:
        return (MESSAGE.validate_json(line) for line in self._messages)

    def wait_for(self, stage: str) -> None:
        assert any(m.type == "stage.started" and m.stage == stage for m in self.read())

    def send(self, number: signal.Signals) -> None:
        os.kill(self._child.pid, number)

    def wait(self, timeout_s: float | None = None) -> int:
        return self._child.wait(timeout_s)

    def end(self) -> None:
        if self._child.poll() is None:
            self.send(signal.SIGKILL)
        self._child.wait()
        self.lifeline.close()
        self._messages.close()


@contextmanager
def running(work: Path, starter: Starter = RUNNERS) -> Iterator[Running]:
    """A runner in a process group of its own."""
    process = Running(work, starter)
    try:
        yield process
    finally:
        process.end()


def run(work: Path, starter: Starter = RUNNERS) -> tuple[list[RunnerMessage], int]:
    with running(work, starter) as process:
        return list(process.read()), process.wait()


def artifact_digests(work: Path) -> dict[str, str]:
    index = json.loads((work / "output" / "output.json").read_bytes())
    return {artifact["name"]: artifact["sha256"] for artifact in index["artifacts"]}


def test_killed_again_and_again_a_job_ends_with_the_bytes_of_an_undisturbed_one(uploads, finished, tmp_path):
    work = uploads.make_work(tmp_path / "work")
    moments = random.Random(20261122)
    for stage in ("load", "prune", "finetune", "export", "verify"):
        with running(work) as process:
            process.wait_for(stage)
            time.sleep(moments.uniform(0.0, 0.3))
            process.send(signal.SIGKILL)
    messages, status = run(work)
    assert (messages[-1], status) == (Finished(), 0)
    skipped = {m.stage for m in messages if m.type == "stage.finished" and m.skipped}
    assert {"load", "baseline", "prune"} <= skipped
    expected = {artifact.name: artifact.sha256 for artifact in finished.index.artifacts}
    assert artifact_digests(work) == expected


def wait_for_checkpoint(work: Path, number: int) -> None:
    folder = work / "checkpoints" / "finetune" / "training"
    while not any(int(path.name.partition("-")[0]) >= number for path in folder.glob("[0-9]*-*")):
        time.sleep(0.005)


def test_killed_in_the_middle_of_a_fine_tune_it_goes_on_from_its_last_checkpoint(uploads, tmp_path):
    finetune = {"max_steps": 36, "batch_size": 64, "learning_rate": 0.05, "distillation": {}, "augment": True}
    spec = {"finetune": finetune, "evaluation": {"latency": None}, "resources": {"checkpoint_s": 0.0}}
    work = uploads.make_work(tmp_path / "work", spec)
    for number in (3, 20):
        with running(work) as process:
            wait_for_checkpoint(work, number)
            process.send(signal.SIGKILL)
    messages, status = run(work)
    resumed_at = next(m.data["resumed_at"] for m in messages if m.type == "progress")
    assert (status, 20 <= resumed_at <= 36) == (0, True)
    assert not (work / "checkpoints" / "finetune").exists()
    undisturbed = run_job(tmp_path / "undisturbed", uploads.runner_input(spec))
    assert artifact_digests(work) == artifact_digests(undisturbed.work)


@pytest.mark.parametrize("stage", ["load", "finetune"])
def test_sigterm_ends_a_runner_at_once(uploads, tmp_path, stage):
    with running(uploads.make_work(tmp_path / "work", LONG)) as process:
        process.wait_for(stage)
        process.send(signal.SIGTERM)
        assert process.wait(2) == -signal.SIGTERM


def test_a_runner_dies_with_its_supervisor(uploads, tmp_path):
    with running(uploads.make_work(tmp_path / "work", LONG)) as process:
        process.wait_for("finetune")
        process.lifeline.close()
        assert process.wait(2) == -signal.SIGKILL


@pytest.mark.parametrize("starter", [RUNNERS, Spawner("worker.runner")], ids=["forked", "spawned"])
def test_a_failed_job_says_why_and_ends_with_one(uploads, tmp_path, starter):
    model = uploads.model_input(architecture={**ARCHITECTURE, "params": {"width": 4}})
    messages, status = run(uploads.make_work(tmp_path / "work", model=model), starter)
    assert status == 1
    assert messages[-1].type == "failed"
    assert messages[-1].problem.code == "architecture_mismatch"
    assert messages[-1].blame == "user"


def test_a_device_that_is_not_there_is_the_workers_fault(uploads, tmp_path):
    messages, status = run(uploads.make_work(tmp_path / "work", device="cuda"))
    assert (messages[-1].problem.code, status) == ("device_unavailable", 1)


def test_progress_tells_loss_accuracy_sparsity_and_the_time_left(uploads, tmp_path):
    with running(uploads.make_work(tmp_path / "work", LONG)) as process:
        message = next(m for m in process.read() if m.type == "progress")
    assert message.stage == "finetune"
    assert 0 < message.fraction < 1
    assert message.eta_s > 0
    assert set(message.data) == {"train_loss", "train_accuracy", "sparsity", "learning_rate"}


def test_a_model_check_says_what_the_model_is_made_of(uploads, tmp_path):
    given = CheckInput(model_id="mdl_" + "0" * 26, model=uploads.model_input(), threads=1)
    (tmp_path / INPUT_NAME).write_text(given.model_dump_json())
    messages, status = run(tmp_path)
    assert (messages, status) == ([Finished()], 0)
    found = CheckOutput.model_validate_json((tmp_path / "output" / "output.json").read_bytes())
    assert found.parameters == sum(layer.parameters for layer in found.layers) == 19_074
    assert found.prunable_parameters == 18_824
    assert found.macs == sum(layer.macs for layer in found.layers) == 189_248
    assert found.input_signature == {
        "kind": "image",
        "shape": [1, 8, 8],
        "dtype": "float32",
        "classes": 10,
        "tasks": ["image-classification"],
    }
    assert found.forward_ms > 0
    layers = {layer.name: layer for layer in found.layers}
    assert layers["conv1.weight"].prunable
    assert layers["bn1.weight"].why_not == "belongs to a normalisation layer"
