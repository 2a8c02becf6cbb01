"""A migrated database of each kind, with a model and a queued job in it."""

import pytest

from app.core import jobs, schema
from app.core.db import Sessions, make_engine, make_sessions
from app.core.ids import new_id
from app.core.tables import Model


@pytest.fixture
def sessions(database_url) -> Sessions:
    engine = make_engine(database_url)
    schema.upgrade(engine)
    return make_sessions(engine)


@pytest.fixture
def model_id(sessions) -> str:
    model = Model(
        id=new_id("mdl"),
        name="net",
        format="safetensors",
        manifest={},
        files={"weights": {"name": "w", "sha256": "0" * 64, "size_bytes": 1}},
        sha256="0" * 64,
        size_bytes=1,
        status="validating",
        parameters=1,
    )
    with sessions.begin() as session:
        session.add(model)
    return model.id


def new_job(model_id: str, **changes: object) -> jobs.NewJob:
    values = {
        "id": new_id("job"),
        "name": None,
        "model_id": model_id,
        "dataset_id": None,
        "spec": {},
        "resolved_spec": {},
        "spec_sha256": "0" * 64,
        "labels": {},
        "max_attempts": 3,
    }
    return jobs.NewJob(**(values | changes))


@pytest.fixture
def job_id(sessions, model_id) -> str:
    with sessions.begin() as session:
        return jobs.create(session, new_job(model_id), hint_again_s=30.0).id
