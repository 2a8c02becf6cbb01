"""Versions side by side: a worker that the database has outgrown finishes its job and takes no other."""

import pytest
from sqlalchemy import text

from app.core.db import make_engine
from tests.support.service import wait_for


@pytest.fixture
def set_revision(scaled_bench):
    engine = make_engine(scaled_bench.service.settings.database_url)
    with engine.connect() as connection:
        own = connection.scalar(text("SELECT version_num FROM alembic_version"))

    def change(revision: str | None = None) -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision or own})

    yield change
    change()
    engine.dispose()


def test_a_worker_finishes_what_it_runs_and_leaves_the_rest_to_newer_ones(scaled_bench, set_revision):
    running = scaled_bench.submit(epochs=20)
    scaled_bench.wait_for_event(running, "stage.started", stage="finetune")
    set_revision("9999")
    waiting = scaled_bench.submit(epochs=1)
    assert scaled_bench.finish(running)["status"] == "succeeded"
    assert scaled_bench.job(running)["attempt"] == 1
    wait_for(
        lambda: "another version has migrated the database" in scaled_bench.service.log("worker"),
        "the worker to notice",
    )
    job = scaled_bench.job(waiting)
    assert (job["status"], job["attempt"]) == ("queued", 0)
    assert scaled_bench.attempts_ended(waiting) == []
    assert scaled_bench.http.get("/readyz").json()["errors"][0]["code"] == "schema_newer"
    set_revision()
    assert scaled_bench.finish(waiting)["status"] == "succeeded"
    assert scaled_bench.http.get("/readyz").status_code == 200
