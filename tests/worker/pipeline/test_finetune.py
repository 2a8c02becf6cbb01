"""The stage that trains: resumed, short of memory, and with a validation split."""

import signal
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import save_file

from app.core.errors import DivergedTraining, InvalidSpec
from app.core.report import FinetuneReport
from app.core.states import Stage
from benchmarks.digits import load_splits, save_split
from tests.worker.pipeline.conftest import run_job
from worker.measure.size import digest_file
from worker.models import registry
from worker.models.registry import Network, Params, build, register
from worker.pipeline.controls import train_control
from worker.pipeline.finetune import run_finetune
from worker.pipeline.job import Job
from worker.pipeline.progress import ProgressReporter
from worker.protocol import OUTPUT_FOLDER, MemoryRanOut, Progress
from worker.stopping import CANCELLED_NAME, Stopped

GREEDY_ABOVE = 20
GREEDY_JUDGED_ABOVE = 150
SPEC = {
    "finetune": {"max_steps": 6, "batch_size": 32, "distillation": {}},
    "resources": {"checkpoint_s": 0.0},
}


class NoParams(Params):
    """None."""


class Greedy(torch.nn.Module):
    """The digits network on a machine that has room for so many samples at a time, more while judged."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > (GREEDY_ABOVE if self.training else GREEDY_JUDGED_ABOVE):
            raise torch.OutOfMemoryError(f"tried to allocate room for {len(x)} samples")
        return self.module(x)


def build_greedy(params: NoParams) -> Network:
    inner = build({"name": "resnet8x8", "params": {"width": 4}})
    return Network(Greedy(inner.module), inner.inputs, inner.outputs)


class Wild(torch.nn.Module):
    """The digits network, whose fresh weights are too large to train."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module
        self.scale = torch.nn.Parameter(torch.tensor([3e38]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) * self.scale * 10


def build_wild(params: NoParams) -> Network:
    inner = build({"name": "resnet8x8", "params": {"width": 4}})
    return Network(Wild(inner.module), inner.inputs, inner.outputs)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    register("greedy", NoParams, source="none", summary="Runs out of memory.")(build_greedy)
    register("wild", NoParams, source="none", summary="Begins with huge weights.")(build_wild)
    yield
    # Other tests of this process look at everything that is registered.
    del registry._architectures["greedy"]
    del registry._architectures["wild"]


def make_greedy_job(uploads, tmp_path, *, dataset=None, **finetune) -> Job:
    torch.manual_seed(0)
    path = tmp_path / "greedy.safetensors"
    save_file(build({"name": "greedy"}).module.state_dict(), path)
    model = uploads.model_input(
        architecture={"library": "secateur", "name": "greedy", "params": {}},
        files={"weights": path},
        sha256={"weights": digest_file(path)},
    )
    spec = SPEC | {"finetune": SPEC["finetune"] | finetune}
    given = {"model": model} if dataset is None else {"model": model, "dataset": dataset}
    return Job(tmp_path / "work", uploads.runner_input(spec, **given))


def run(job: Job) -> tuple[dict, list[Progress]]:
    sent: list[Progress] = []
    folder = job.folder(Stage.FINETUNE)
    folder.begin({"job": job.digest})
    progress = ProgressReporter(sent.append, Stage.FINETUNE, has_finetune=True)
    return run_finetune(job, folder, progress), sent


def test_out_of_memory_is_answered_once_with_half_the_batch(uploads, tmp_path):
    data, _ = run(make_greedy_job(uploads, tmp_path))
    assert data["steps"] == 6
    (warning,) = data["warnings"]
    assert "batches of half of 32" in warning


def test_out_of_memory_at_half_the_batch_too_ends_the_stage(uploads, tmp_path):
    with pytest.raises(torch.OutOfMemoryError, match="50 samples"):
        run(make_greedy_job(uploads, tmp_path, batch_size=100))


class CancellingProgress(ProgressReporter):
    """Asks for the end after so many steps, as a supervisor does for a cancel."""

    def __init__(self, job: Job, step: int) -> None:
        super().__init__(lambda message: None, Stage.FINETUNE, has_finetune=True)
        self._job, self._step = job, step

    def report(self, step: int, total: int, data: object = dict) -> None:
        if step == self._step:
            (self._job.work / CANCELLED_NAME).touch()
            signal.raise_signal(signal.SIGTERM)


def test_cancelled_at_half_the_batch_the_best_so_far_is_an_artifact(uploads, tmp_path):
    job = make_greedy_job(uploads, tmp_path)
    folder = job.folder(Stage.FINETUNE)
    folder.begin({"job": job.digest})
    with pytest.raises(Stopped):
        run_finetune(job, folder, CancellingProgress(job, step=3))
    assert list_kept(job) == ["best-so-far.safetensors"]


def test_diverging_at_half_the_batch_the_last_good_weights_are_an_artifact(uploads, tmp_path):
    job = make_greedy_job(uploads, tmp_path, learning_rate=1e30, warmup_fraction=0.5, clip_norm=1e-31)
    with pytest.raises(DivergedTraining, match=r"are the artifact last-good\.safetensors"):
        run(job)
    assert list_kept(job) == ["last-good.safetensors"]


def list_kept(job: Job) -> list[str]:
    return [path.name for path in (job.work / OUTPUT_FOLDER / "artifacts").iterdir()]


def test_half_the_batch_is_remembered_by_a_resumed_run(uploads, tmp_path):
    job = make_greedy_job(uploads, tmp_path)
    folder = job.folder(Stage.FINETUNE)
    folder.begin({"job": job.digest})

    def die(message: object) -> None:
        if isinstance(message, Progress):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_finetune(job, folder, ProgressReporter(die, Stage.FINETUNE, has_finetune=True, clock=Clock()))
    data, sent = run(job)
    assert next(m for m in sent if isinstance(m, Progress)).data == {"resumed_at": 1}
    assert len(data["warnings"]) == 1


def test_a_precision_that_the_device_does_not_compute_in_is_said(uploads, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    data, _ = run(make_greedy_job(uploads, tmp_path, batch_size=16, precision="bfloat16"))
    (warning,) = data["warnings"]
    assert "no instructions for bfloat16" in warning


class Clock:
    """A minute passes whenever it is looked at."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 60.0
        return self.now_s


def add_validation(uploads, folder) -> dict:
    path = save_split(load_splits(seed=1)[1], folder / "validation.npz")
    files = {"train": uploads.train, "test": uploads.test, "validation": path}
    return {"files": files, "sha256": {name: digest_file(path) for name, path in files.items()}}


def test_a_validation_split_judges_every_round_and_the_best_comes_out(uploads, tmp_path):
    dataset = uploads.dataset_input(**add_validation(uploads, tmp_path))
    spec = {
        "finetune": {"epochs": 2, "batch_size": 64, "early_stopping": {"patience": 5}},
        "evaluation": {"latency": None},
    }
    report = run_job(tmp_path / "work", uploads.runner_input(spec, dataset=dataset)).report
    assert all("validation_accuracy" in row.metrics for row in report.history)
    assert report.finetune.steps == report.finetune.planned_steps
    full_at = next(row.step for row in report.history if row.target == pytest.approx(0.7))
    assert full_at <= report.finetune.best_step <= report.finetune.steps
    assert report.summary.sparsity.masked == pytest.approx(0.7, abs=1e-3)


def test_what_runs_out_of_memory_while_it_is_judged_is_judged_in_halves_too(uploads, tmp_path):
    dataset = uploads.dataset_input(**add_validation(uploads, tmp_path))
    data, _ = run(make_greedy_job(uploads, tmp_path, dataset=dataset, batch_size=16))
    assert data["steps"] == 6
    (warning,) = data["warnings"]
    assert "memory ran out" in warning


def test_early_stopping_without_a_validation_split_is_refused_while_loading(uploads, tmp_path):
    spec = {"finetune": {"epochs": 1, "early_stopping": {}}}
    with pytest.raises(
        InvalidSpec, match="judged on the split validation; the dataset has only: test, train"
    ):
        run_job(tmp_path / "work", uploads.runner_input(spec))


TICKET = {
    "recipe": {
        "target": {"value": 0.7},
        "schedule": {
            "name": "lottery_ticket",
            "params": {"rounds": 1, "rewind_fraction": 0.5, "controls": ["random_mask", "random_reinit"]},
        },
    },
    "finetune": {"max_steps": 6, "batch_size": 32},
    "evaluation": {"latency": None},
    "resources": {"checkpoint_s": 0.0},
}


def test_the_controls_of_a_ticket_are_in_the_report(uploads, tmp_path):
    run = run_job(tmp_path / "work", uploads.runner_input(TICKET))
    assert [control.name for control in run.report.controls] == ["random_mask", "random_reinit"]
    # Six steps of the dense training, and of the ticket's the three from where it is rewound to.
    assert run.report.finetune == FinetuneReport(steps=9, planned_steps=9, best_step=None)
    finetune = next(m for m in run.messages if m.type == "stage.finished" and m.stage == Stage.FINETUNE)
    assert finetune.data["controls"] == [
        {"name": name, "records": f"control-{name}.safetensors"} for name in ("random_mask", "random_reinit")
    ]
    assert [row.note for row in run.report.history] == [
        "trained dense",
        "weights rewound to those of step 3 of the first training",
    ]


def test_a_control_that_diverges_is_left_out_with_a_warning(uploads, tmp_path):
    torch.manual_seed(0)
    module = build({"name": "wild"}).module
    path = tmp_path / "wild.safetensors"
    save_file({**module.state_dict(), "scale": torch.tensor([0.1])}, path)
    model = uploads.model_input(
        architecture={"library": "secateur", "name": "wild", "params": {}},
        files={"weights": path},
        sha256={"weights": digest_file(path)},
    )
    job = Job(tmp_path / "work", uploads.runner_input(TICKET, model=model))
    data, _ = run(job)
    assert data["controls"] == [{"name": "random_mask", "records": "control-random_mask.safetensors"}]
    (warning,) = data["warnings"]
    assert warning.startswith("the control random_reinit is missing: the loss became nan at step 1 of 6")
    assert not (job.work / OUTPUT_FOLDER).exists()


def test_a_control_without_memory_does_not_cost_the_ticket(uploads, tmp_path, monkeypatch):
    def train_where_there_is_room(job, folder, control, **given):
        if control == "random_mask":
            raise torch.OutOfMemoryError("tried to allocate")
        return train_control(job, folder, control, **given)

    monkeypatch.setattr("worker.pipeline.finetune.train_control", train_where_there_is_room)
    data, sent = run(Job(tmp_path / "work", uploads.runner_input(TICKET)))
    assert [control["name"] for control in data["controls"]] == ["random_reinit"]
    assert data["warnings"] == ["the control random_mask is missing: memory ran out"]
    assert not any(isinstance(message, MemoryRanOut) for message in sent)


class DyingProgress:
    """Dies when told of a step, as a process may."""

    def __init__(self, step: int) -> None:
        self._step = step

    def resume(self, step: int, total: int) -> None:
        pass

    def tell_checkpoint(self, step: int) -> None:
        pass

    def report(self, step: int, total: int, data: object) -> None:
        if step == self._step:
            raise KeyboardInterrupt


def test_killed_in_every_training_and_control_a_ticket_ends_with_the_same_files(uploads, tmp_path):
    # 6 steps dense, 3 of the ticket, 3 of the random mask, 6 of the random weights.
    given = uploads.runner_input(TICKET)
    expected, _ = run(whole := Job(tmp_path / "whole", given))
    job = Job(tmp_path / "work", given)
    folder = job.folder(Stage.FINETUNE)
    for step in (2, 8, 11, 15):
        folder.begin({"job": job.digest})
        with pytest.raises(KeyboardInterrupt):
            run_finetune(job, folder, DyingProgress(step))
    data, sent = run(job)
    assert data == expected
    assert [m.data["resumed_at"] for m in sent if isinstance(m, Progress)][:3] == [9, 12, 15]
    for path in whole.folder(Stage.FINETUNE).path.iterdir():
        assert (folder.path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_criterion_that_learns_from_the_training_prunes_nothing_before_it(uploads, tmp_path):
    spec = {
        "recipe": {
            "target": {"value": 0.5},
            "criterion": {"name": "movement"},
            "schedule": {"name": "cubic"},
        },
        "finetune": {"max_steps": 10, "batch_size": 32},
        "evaluation": {"latency": None},
    }
    report = run_job(tmp_path / "work", uploads.runner_input(spec)).report
    assert report.summary.metrics[0].pruned is None
    assert report.summary.sparsity.masked == pytest.approx(0.5, abs=1e-3)
    assert report.history[-1].target == 0.5
