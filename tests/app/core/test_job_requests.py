"""A retry beside a deletion: no job is queued on what is gone."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from app.core import job_requests, jobs, schema
from app.core.db import make_engine, make_sessions
from app.core.errors import JobTimeout, TransitionRefused
from app.core.ids import new_id
from app.core.tables import Dataset, Job
from app.services import datasets, models
from tests.app.core.conftest import new_job
from tests.support.service import wait_for


@pytest.fixture
def sessions(postgres):
    """SQLite has one writer at a time: there, no two of these can meet."""
    engine = make_engine(postgres.create_database(f"r{uuid.uuid4().hex}"))
    schema.upgrade(engine)
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture
def dataset_id(sessions) -> str:
    row = Dataset(
        id=new_id("dst"),
        name="digits",
        task="regression",
        format="npz",
        manifest={},
        files={},
        splits={},
        sha256="0" * 64,
        size_bytes=1,
    )
    with sessions.begin() as session:
        session.add(row)
    return row.id


@pytest.fixture
def failed_job_id(sessions, model_id, dataset_id) -> str:
    with sessions.begin() as session:
        job_id = jobs.create(session, new_job(model_id, dataset_id=dataset_id), hint_again_s=30.0).id
    with sessions.begin() as session:
        lease = jobs.claim(session, job_id, "w", lease_s=30.0)
    with sessions.begin() as session:
        jobs.fail(session, lease, JobTimeout("late").problem())
    return job_id


def is_waiting_for_a_lock(sessions) -> bool:
    here = "datname = current_database()"
    asked = f"SELECT count(*) FROM pg_stat_activity WHERE {here} AND wait_event_type = 'Lock'"
    with sessions() as session:
        return bool(session.scalar(text(asked)))


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_retry_that_meets_a_deletion_is_refused(sessions, failed_job_id, model_id, dataset_id, kind):
    def retry() -> None:
        with sessions.begin() as session:
            job_requests.request_retry(session, failed_job_id, start="checkpoint", hint_again_s=30.0)

    with ThreadPoolExecutor(1) as other:
        with sessions.begin() as deleting:
            if kind == "model":
                models.delete(deleting, model_id)
            else:
                datasets.delete(deleting, dataset_id)
            retried = other.submit(retry)
            wait_for(lambda: is_waiting_for_a_lock(sessions), "the retry to meet the deletion")
        with pytest.raises(TransitionRefused, match="its model or its dataset was deleted"):
            retried.result()
    with sessions() as session:
        assert session.get_one(Job, failed_job_id).status == "failed"
