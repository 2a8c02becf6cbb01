"""Pause, resume, retry and cancel with real runners; checkpoints that another worker takes up."""

import shutil

import pytest
from safetensors.torch import load_file
from sqlalchemy import func, select, update

from app.core import garbage, job_requests
from app.core.tables import Artifact, Job, JobAttempt, JobCheckpoint
from tests.support import digits
from tests.support.service import wait_for
from tests.worker.conftest import add_model, migrate_and_make_context
from worker.supervision.context import WorkerContext
from worker.supervisor import run_waiting_jobs

EPOCHS = 8
# No checkpoint is due by time: those that are found were written because the runner was asked to stop.
NEVER = {"checkpoint_s": 3600.0}


@pytest.fixture
def other_worker(context, tmp_path) -> WorkerContext:
    """A worker on another machine: the same database and store, and an empty disk."""
    settings = context.settings.model_copy(update={"data_dir": tmp_path / "other"})
    return migrate_and_make_context(settings)


def read(context, job_id) -> Job:
    with context.sessions() as session:
        return session.get_one(Job, job_id)


def attempts(context, job_id) -> list[JobAttempt]:
    with context.sessions() as session:
        query = select(JobAttempt).where(JobAttempt.job_id == job_id).order_by(JobAttempt.epoch)
        return list(session.scalars(query))


def digest(context, job_id) -> str:
    with context.sessions() as session:
        return session.get_one(Artifact, (job_id, "model.safetensors")).sha256


def ask(context, request, job_id, **how) -> None:
    with context.sessions.begin() as session:
        request(session, job_id, **how)


def run_until_it_trains(context, in_background, job_id):
    thread = in_background(run_waiting_jobs, context)

    def is_training() -> bool:
        # The stage begins with the progress of the one before, which has one step in all.
        progress = read(context, job_id).progress
        return progress["total"] > 1 and progress["step"] > 0

    wait_for(is_training, "a step of the fine-tune")
    return thread


def pause_while_it_trains(context, in_background, job_id) -> None:
    thread = run_until_it_trains(context, in_background, job_id)
    ask(context, job_requests.request_pause, job_id)
    thread.join(60)
    assert read(context, job_id).status == "paused"


def test_a_paused_job_goes_on_at_another_worker_and_ends_in_the_same_bytes(
    context, other_worker, submit, in_background
):
    model_id = add_model(context, digits.model_bytes())
    whole = submit(model_id, epochs=EPOCHS, resources=NEVER)
    run_waiting_jobs(context)
    paused = submit(model_id, epochs=EPOCHS, resources=NEVER)
    pause_while_it_trains(context, in_background, paused)
    job = read(context, paused)
    assert (job.attempt, job.pause_requested, job.lease_until) == (0, False, None)
    slot = context.slots.take()
    assert slot is not None
    context.slots.give(slot)
    # What is left of the checkpoints that were replaced goes; what the paused job needs does not.
    assert garbage.collect(context.sessions, context.store.bytes, grace_s=-1.0) > 0
    ask(context, job_requests.request_resume, paused, hint_again_s=30.0)
    run_waiting_jobs(other_worker)
    assert read(context, paused).status == "succeeded"
    assert digest(context, paused) == digest(context, whole)
    first, second = attempts(context, paused)
    assert (first.ended, first.class_, first.resumed_from) == ("paused", None, None)
    assert second.resumed_from["stage"] == "finetune"
    assert second.resumed_from["step"] > 0
    assert second.warnings == []
    with context.sessions() as session:
        assert session.scalar(select(func.count()).select_from(JobCheckpoint)) == 0


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_one_of_other_code_is_refused(
    context, other_worker, submit, in_background
):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=EPOCHS, resources=NEVER)
    pause_while_it_trains(context, in_background, job_id)
    with context.sessions() as session:
        newest, before = session.scalars(select(JobCheckpoint).order_by(JobCheckpoint.id.desc())).all()
    assert (newest.stage, before.stage, before.step) == ("finetune", "prune", None)
    [name] = [name for name in newest.files if name.startswith("checkpoints/finetune/")]
    blob = context.store.local_path(newest.files[name]["sha256"])
    blob.write_bytes(blob.read_bytes()[:-1])
    with context.sessions.begin() as session:
        session.execute(update(JobCheckpoint).where(JobCheckpoint.id == before.id).values(version="0+old"))
    ask(context, job_requests.request_resume, job_id, hint_again_s=30.0)
    run_waiting_jobs(other_worker)
    assert read(context, job_id).status == "succeeded"
    second = attempts(context, job_id)[1]
    assert second.resumed_from is None
    damaged, refused = second.warnings
    assert "could not be used" in damaged
    assert "version 0+old wrote it" in refused


def test_a_checkpoint_before_a_damaged_one_is_taken_up(context, other_worker, submit, in_background):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=EPOCHS, resources=NEVER)
    pause_while_it_trains(context, in_background, job_id)
    with context.sessions() as session:
        newest = session.scalars(select(JobCheckpoint).order_by(JobCheckpoint.id.desc()).limit(1)).one()
    [name] = [name for name in newest.files if name.startswith("checkpoints/finetune/")]
    context.store.bytes.delete(newest.files[name]["sha256"])
    ask(context, job_requests.request_resume, job_id, hint_again_s=30.0)
    run_waiting_jobs(other_worker)
    second = attempts(context, job_id)[1]
    assert second.resumed_from == {"stage": "prune", "step": None}
    assert len(second.warnings) == 1


def test_a_checkpoint_that_rots_on_the_worker_s_disk_costs_no_step(context, submit, in_background):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=EPOCHS, resources=NEVER)
    pause_while_it_trains(context, in_background, job_id)
    with context.sessions() as session:
        newest = session.scalars(select(JobCheckpoint).order_by(JobCheckpoint.id.desc()).limit(1)).one()
    [name] = [name for name in newest.files if name.startswith("checkpoints/finetune/")]
    path = context.settings.work_dir / job_id / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    ask(context, job_requests.request_resume, job_id, hint_again_s=30.0)
    run_waiting_jobs(context)
    second = attempts(context, job_id)[1]
    assert (second.ended, second.warnings) == ("succeeded", [])
    assert second.resumed_from == {"stage": "finetune", "step": newest.step}


def test_a_cancelled_job_leaves_its_best_weights_and_is_retried_from_where_it_was(
    context, submit, in_background
):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=EPOCHS, resources=NEVER)
    thread = run_until_it_trains(context, in_background, job_id)
    ask(context, job_requests.request_cancel, job_id)
    thread.join(60)
    assert read(context, job_id).status == "cancelled"
    with context.sessions() as session:
        [artifact] = session.scalars(select(Artifact)).all()
    assert artifact.name == "best-so-far.safetensors"
    tensors = load_file(context.store.local_path(artifact.sha256))
    assert any((tensor == 0).float().mean() > 0.01 for tensor in tensors.values() if tensor.ndim == 4)
    assert not (context.settings.work_dir / job_id).exists()
    ask(context, job_requests.request_retry, job_id, start="checkpoint", hint_again_s=30.0)
    run_waiting_jobs(context)
    assert read(context, job_id).status == "succeeded"
    assert attempts(context, job_id)[1].resumed_from["step"] > 0


def test_a_retry_from_the_start_takes_up_nothing(context, submit, in_background):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=2, resources=NEVER)
    thread = in_background(run_waiting_jobs, context)
    wait_for(lambda: read(context, job_id).stage == "finetune", "the fine-tune")
    context.draining.set()
    thread.join(60)
    context.draining.clear()
    assert (context.settings.work_dir / job_id / "stages").exists()
    ask(context, job_requests.request_cancel, job_id)
    ask(context, job_requests.request_retry, job_id, start="start", hint_again_s=30.0)
    run_waiting_jobs(context)
    assert read(context, job_id).status == "succeeded"
    assert attempts(context, job_id)[1].resumed_from is None


def test_a_worker_that_drains_leaves_a_checkpoint(context, other_worker, submit, in_background):
    job_id = submit(add_model(context, digits.model_bytes()), epochs=EPOCHS, resources=NEVER)
    thread = run_until_it_trains(context, in_background, job_id)
    context.draining.set()
    thread.join(60)
    assert (read(context, job_id).status, read(context, job_id).attempt) == ("queued", 0)
    shutil.rmtree(context.settings.work_dir)
    run_waiting_jobs(other_worker)
    first, second = attempts(context, job_id)
    assert (first.ended, first.class_) == ("released", "released")
    assert (second.ended, second.attempt) == ("succeeded", 1)
    assert second.resumed_from["step"] > 0
