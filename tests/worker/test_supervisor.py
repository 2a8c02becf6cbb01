"""The supervisor with a real runner: results land in one transaction, every way out is recorded."""

import json
import os
import signal

import pytest
from safetensors.torch import load, load_file
from sqlalchemy import func, select

from app.core import job_requests
from app.core.tables import Artifact, Job, JobAttempt, JobLayer, JobMask, JobReport
from tests.support import digits
from tests.support.alive import is_alive
from tests.support.runners import find_runners
from tests.support.service import wait_for
from tests.worker.conftest import SCRIPTED, add_model
from worker.forks.client import ForkServer, Spawner
from worker.supervision.process import make_starter
from worker.supervisor import run_waiting_jobs


def read(context, job_id) -> Job:
    with context.sessions() as session:
        return session.get_one(Job, job_id)


def test_a_job_ends_with_report_masks_layers_and_artifacts(context, submit):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=1)
    run_waiting_jobs(context)
    job = read(context, job_id)
    assert (job.status, job.error) == ("succeeded", None)
    with context.sessions() as session:
        report = session.get_one(JobReport, job_id).report
        masks = session.scalar(select(func.count()).select_from(JobMask))
        layers = session.scalar(select(func.count()).select_from(JobLayer))
        artifacts = session.scalars(select(Artifact)).all()
    assert masks == sum(row["prunable"] for row in report["layers"])
    assert layers == len(report["layers"])
    for artifact in artifacts:
        assert context.store.local_path(artifact.sha256).stat().st_size == artifact.size_bytes
    assert not (context.settings.work_dir / job_id).exists()


def test_a_user_s_mistake_found_by_the_runner_fails_the_job_with_a_problem(context, submit):
    wrong = {"library": "secateur", "name": "lenet-300-100", "params": {}}
    job_id = submit(add_model(context, digits.model_bytes(), wrong))
    run_waiting_jobs(context)
    job = read(context, job_id)
    assert (job.status, job.error["code"], job.attempt) == ("failed", "architecture_mismatch", 1)


def test_a_training_that_diverges_leaves_its_last_good_checkpoint(context, submit):
    # The clip keeps the first step, at half the rate, on this side of infinity.
    settings = {"max_steps": 4, "learning_rate": 1e30, "warmup_fraction": 0.5, "clip_norm": 1e-31}
    model_id = add_model(context, digits.model_bytes())
    job_id = submit(model_id, finetune=settings, resources={"checkpoint_s": 0.0})
    run_waiting_jobs(context)
    job = read(context, job_id)
    assert (job.status, job.error["code"]) == ("failed", "diverged")
    assert job.error["detail"].endswith("its weights are the artifact last-good.safetensors")
    with context.sessions() as session:
        (artifact,) = session.scalars(select(Artifact)).all()
    tensors = load_file(context.store.local_path(artifact.sha256))
    assert set(tensors) == set(load(digits.model_bytes()))
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_one_hint_runs_every_job_that_waits(context, submit):
    model_id = add_model(context, digits.model_bytes())
    ids = [submit(model_id, epochs=1) for _ in range(2)]
    run_waiting_jobs(context)
    assert [read(context, job_id).status for job_id in ids] == ["succeeded", "succeeded"]


def test_a_hint_for_a_job_that_is_done_does_nothing(context, submit):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=1)
    run_waiting_jobs(context)
    before = read(context, job_id).last_seq
    for _ in range(3):
        run_waiting_jobs(context)
    assert read(context, job_id).last_seq == before


def test_a_hint_is_dropped_while_every_slot_is_taken(context, submit):
    job_id = submit(add_model(context, digits.model_bytes()))
    context.slots.take()
    run_waiting_jobs(context)
    assert read(context, job_id).status == "queued"


def test_a_runner_that_speaks_nonsense_is_a_crash(context, submit, write_runner):
    write_runner("print('hello', flush=True)\nimport time\ntime.sleep(60)\n")
    job_id = submit(add_model(context, digits.model_bytes()), resources={"max_attempts": 1})
    run_waiting_jobs(context)
    assert read(context, job_id).error["code"] == "crash_loop"


@pytest.mark.parametrize("kind", [ForkServer, Spawner])
def test_settings_with_credentials_do_not_reach_the_runner(
    context, submit, monkeypatch, tmp_path, write_runner, kind
):
    seen = tmp_path / "seen.json"
    write_runner(f"import json, os\njson.dump(dict(os.environ), open({str(seen)!r}, 'w'))\n")
    monkeypatch.setenv("SECATEUR_DATABASE_URL", "postgresql://secret")
    starter = make_starter(SCRIPTED, threads=1, gpu=0 if kind is Spawner else None)
    assert isinstance(starter, kind)
    monkeypatch.setitem(context.starters, None, starter)
    submit(add_model(context, digits.model_bytes()), resources={"max_attempts": 1})
    run_waiting_jobs(context)
    if isinstance(starter, ForkServer):
        starter.close()
    environment = json.loads(seen.read_text())
    assert not [name for name in environment if name.startswith("SECATEUR_")]
    assert environment["OMP_NUM_THREADS"] == "1"


def test_a_worker_that_drains_gives_its_job_back(context, submit, in_background):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=500)
    thread = in_background(run_waiting_jobs, context)
    wait_for(lambda: read(context, job_id).stage == "finetune", "the fine-tune")
    context.draining.set()
    thread.join(30)
    job = read(context, job_id)
    assert (job.status, job.attempt) == ("queued", 0)


@pytest.mark.parametrize("whom", ["runner", "runner and fork server"])
def test_a_sigterm_that_reaches_the_runner_too_costs_no_attempt(context, submit, in_background, whom):
    """As systemd sends it, unless its KillMode is mixed: to all processes of the worker at once."""
    job_id = submit(add_model(context, digits.model_bytes()), epochs=500)
    thread = in_background(run_waiting_jobs, context)
    wait_for(lambda: read(context, job_id).stage == "finetune", "the fine-tune")
    [(runner, _)] = find_runners(context.settings.work_dir)
    if whom != "runner":
        runner.parent().terminate()
    os.killpg(runner.pid, signal.SIGTERM)
    wait_for(lambda: not is_alive(runner), "the runner to end")
    context.draining.set()
    thread.join(30)
    with context.sessions() as session:
        [attempt] = session.scalars(select(JobAttempt)).all()
    assert (attempt.ended, attempt.class_) == ("released", "released")
    assert (read(context, job_id).status, read(context, job_id).attempt) == ("queued", 0)


def test_a_sigterm_to_the_runner_alone_is_a_crash(context, submit, write_runner):
    write_runner("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    job_id = submit(add_model(context, digits.model_bytes()), resources={"max_attempts": 1})
    run_waiting_jobs(context)
    assert read(context, job_id).error["code"] == "crash_loop"


def test_a_cancel_reaches_the_runner_through_the_heartbeat(context, submit, in_background):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=500)
    thread = in_background(run_waiting_jobs, context)
    wait_for(lambda: read(context, job_id).stage == "finetune", "the fine-tune")
    with context.sessions.begin() as session:
        job_requests.request_cancel(session, job_id)
    thread.join(30)
    assert read(context, job_id).status == "cancelled"
