"""Before there is a runner: a job whose inputs are still fetched hears what was asked of it."""

import fcntl
from contextlib import contextmanager

import pytest

from app.core import job_requests
from app.core.config import Settings
from app.core.job_returns import MAX_SETBACKS
from app.core.tables import Dataset, Job, JobAttempt, Model
from tests.support import digits
from tests.support.service import wait_for
from tests.worker.conftest import add_model, migrate_and_make_context
from worker.supervision.model_check import check_hinted_model
from worker.supervision.process import PID_NAME
from worker.supervisor import run_waiting_jobs


@pytest.fixture
def context(tmp_path, s3):
    """A worker whose inputs come from a bucket."""
    settings = Settings(data_dir=tmp_path / "data", beat_s=0.2, kill_grace_s=1.0, **s3.settings())
    return migrate_and_make_context(settings)


@contextmanager
def another_worker_fetches(context, model_id):
    """Another worker of this machine fetches the model's bytes, and was stopped in the middle of it."""
    with context.sessions() as session:
        sha256 = session.get_one(Model, model_id).sha256
    locks = context.settings.cache_dir / "locks"
    locks.mkdir(parents=True)
    with (locks / sha256[:2]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def request(ask):
    def request(context, job_id):
        with context.sessions.begin() as session:
            ask(session, job_id)

    return request


def drain(context, _):
    context.draining.set()


def read(context, job_id) -> Job:
    with context.sessions() as session:
        return session.get_one(Job, job_id)


@pytest.mark.parametrize(
    ("ask", "status", "attempt"),
    [
        (request(job_requests.request_cancel), "cancelled", 1),
        (request(job_requests.request_pause), "paused", 0),
        (drain, "queued", 0),
    ],
)
def test_a_job_that_waits_for_its_inputs_ends_as_asked(context, submit, in_background, ask, status, attempt):
    model_id = add_model(context, digits.model_bytes())
    job_id = submit(model_id)
    with another_worker_fetches(context, model_id):
        thread = in_background(run_waiting_jobs, context)
        wait_for(lambda: (context.settings.work_dir / job_id / "inputs").exists(), "the inputs to be fetched")
        ask(context, job_id)
        thread.join(30)
        assert not thread.is_alive()
    job = read(context, job_id)
    assert (job.status, job.attempt) == (status, attempt)
    assert not (context.settings.work_dir / job_id / PID_NAME).exists()


def test_waiting_for_inputs_is_part_of_a_job_s_time(context, submit, in_background):
    model_id = add_model(context, digits.model_bytes())
    job_id = submit(model_id, resources={"timeout_s": 1})
    with another_worker_fetches(context, model_id):
        thread = in_background(run_waiting_jobs, context)
        thread.join(30)
        assert not thread.is_alive()
    assert read(context, job_id).error["code"] == "timeout"


def test_a_check_that_waits_for_its_model_is_given_back_by_a_worker_that_drains(context, in_background):
    model_id = add_model(context, digits.model_bytes())
    with another_worker_fetches(context, model_id):
        thread = in_background(check_hinted_model, context, model_id)
        wait_for(lambda: list(context.settings.work_dir.glob("*/inputs")), "the model to be fetched")
        context.draining.set()
        thread.join(30)
        assert not thread.is_alive()
    with context.sessions() as session:
        model = session.get_one(Model, model_id)
    assert (model.status, model.checks) == ("validating", 0)


def newer_spec(session, job):
    newer = {"recipe": job.resolved_spec["recipe"] | {"sparkle": {"amount": 3}}}
    job.resolved_spec = job.resolved_spec | newer


def newer_dataset(session, job):
    dataset = session.get_one(Dataset, job.dataset_id)
    dataset.manifest = dataset.manifest | {"sparkle": 3}


def newer_columns(session, job):
    dataset = session.get_one(Dataset, job.dataset_id)
    dataset.manifest = dataset.manifest | {"columns": {"text": "phrase", "sparkle": "much"}}


def newer_model(session, job):
    model = session.get_one(Model, job.model_id)
    model.manifest = model.manifest | {"sparkle": 3}


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (newer_spec, "recipe.sparkle as the job's spec has it"),
        (newer_dataset, "sparkle as the dataset's manifest has it"),
        (newer_columns, "columns.sparkle as the dataset's manifest has it"),
        (newer_model, "sparkle as the model's manifest has it"),
    ],
)
def test_a_field_that_this_version_does_not_know_waits_for_a_newer_worker_and_costs_nothing(
    context, submit, write, named
):
    job_id = submit(add_model(context, digits.model_bytes()))
    with context.sessions.begin() as session:
        job = session.get_one(Job, job_id)
        write(session, job)
        job.setbacks = MAX_SETBACKS
    run_waiting_jobs(context)
    with context.sessions() as session:
        job, attempt = session.get_one(Job, job_id), session.get_one(JobAttempt, (job_id, 1))
    assert (job.status, job.attempt, job.error) == ("queued", 0, None)
    assert job.next_run_at is not None
    assert (attempt.ended, attempt.class_) == ("failed", "transient")
    assert f"version {context.version}, which does not know {named}" in attempt.detail


def test_a_check_of_a_model_that_this_version_does_not_know_is_left_to_a_newer_worker(context):
    model_id = add_model(context, digits.model_bytes())
    with context.sessions.begin() as session:
        model = session.get_one(Model, model_id)
        model.manifest = model.manifest | {"sparkle": 3}
    check_hinted_model(context, model_id)
    with context.sessions() as session:
        model = session.get_one(Model, model_id)
    assert (model.status, model.checks) == ("validating", 0)
