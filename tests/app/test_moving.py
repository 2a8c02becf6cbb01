"""migrate --to --store: an embedded installation arrives on Postgres and in a bucket as it was."""

import fcntl
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest
from sqlalchemy import func, select, text
from starlette.testclient import TestClient

from app.core import jobs, schema
from app.core.blobs import open_blobs
from app.core.config import Settings
from app.core.db import make_engine, make_sessions
from app.core.ownership import check_owner
from app.core.storage import open_store
from app.core.tables import Base, Job, JobAttempt, OutboxMessage
from app.embedded import environment
from app.main import create_app
from app.moving import CannotMove, move
from tests.app.conftest import make_settings
from tests.support import uploads
from tests.support.s3 import FailingProxy


@pytest.fixture
def source(tmp_path):
    return make_settings(tmp_path / "data", f"sqlite:///{tmp_path / 'data' / 'secateur.db'}")


@pytest.fixture
def target(source, s3, postgres):
    url = postgres.create_database(f"m{uuid.uuid4().hex}").replace("postgresql+psycopg://", "postgresql://")
    return Settings(
        data_dir=source.data_dir, database_url=url, allowed_hosts=source.allowed_hosts, **s3.settings()
    )


@pytest.fixture
def filled(source, tmp_path):
    """A model, a dataset, a job that is done, one that runs and one that waits; ids by name."""
    with TestClient(create_app(source)) as client:
        model_id = uploads.upload_model(client).json()["id"]
        dataset_id = uploads.upload_dataset(client).json()["id"]
        parts = client.app.state.parts
        uploads.make_ready(parts, model_id)
        ids = {}
        for name in ("done", "running", "waiting"):
            made = client.post("/v1/jobs", json=uploads.job_spec(model_id, dataset_id))
            ids[name] = made.json()["id"]
        uploads.finish_job(parts, ids["done"], tmp_path)
        uploads.start_job(parts, ids["running"])
        ids["answers"] = {path: client.get(path).json() for path in paths_of(model_id, dataset_id, ids)}
    return ids


def paths_of(model_id: str, dataset_id: str, ids: dict) -> list[str]:
    job = f"/v1/jobs/{ids['done']}"
    return [
        f"/v1/models/{model_id}",
        f"/v1/datasets/{dataset_id}",
        job,
        *(f"{job}/{kind}" for kind in ("events", "attempts", "report", "layers", "masks", "artifacts")),
    ]


def count_rows(settings) -> int:
    """Count all rows but the one that says which installation it is."""
    tables = [table for table in Base.metadata.sorted_tables if table.name != "installations"]
    with make_engine(settings.database_url).connect() as connection:
        return sum(connection.scalar(select(func.count()).select_from(table)) for table in tables)


def test_everything_arrives_with_its_ids_and_digests_and_running_jobs_are_queued(source, target, filled):
    before = count_rows(source)
    ticks = []
    counts = move(source, target, tick=lambda *tick: ticks.append(tick))
    assert counts["jobs"] == 3
    assert {kind for kind, *_ in ticks} == {"blobs", "tables"}
    assert count_rows(source) == before
    with TestClient(create_app(target)) as client:
        for path, answer in filled["answers"].items():
            assert client.get(path).json() == answer, path
        artifact = client.get(f"/v1/jobs/{filled['done']}/artifacts/model.safetensors")
        assert artifact.content == b"0123456789"
        # Postgres counts on where SQLite stopped, and equal bytes are still known.
        assert uploads.upload_model(client).status_code == 201
    sessions = make_sessions(make_engine(target.database_url))
    with sessions() as session:
        running = session.get_one(Job, filled["running"])
        assert (running.status, running.attempt, running.lease_until) == ("queued", 0, None)
        [attempt] = session.scalars(select(JobAttempt).where(JobAttempt.job_id == filled["running"]))
        assert attempt.ended == "released"
        hinted = session.scalars(select(OutboxMessage.ref).where(OutboxMessage.published_at.is_(None))).all()
        assert {filled["running"], filled["waiting"]} <= set(hinted)
    with sessions.begin() as session:
        assert jobs.claim(session, filled["running"], "w", lease_s=60.0).epoch == 2
    store = open_store(target)
    digests = {blob.sha256 for blob in open_store(source).list_older_than(-1.0)}
    assert digests <= {blob.sha256 for blob in store.list_older_than(-1.0)}


def test_numbers_arrive_that_postgres_writes_another_way(source, target, filled):
    numbers = [-0.0, 0.0, 1.0, 1.142e26, -2.5e300, 1e16, 5e-324, 0.1, 2**63 - 1, 10**30, True]
    with make_sessions(make_engine(source.database_url)).begin() as session:
        session.get_one(Job, filled["waiting"]).spec = {"numbers": numbers, "in": {"one": numbers[3]}}
    move(source, target, tick=lambda *_: None)
    with make_sessions(make_engine(target.database_url))() as session:
        found = session.get_one(Job, filled["waiting"]).spec
    assert [float(one) for one in found["numbers"]] == [float(one) for one in numbers]


@pytest.mark.parametrize("change", ["'{\"one\": 1}'", '\'{"one": "0"}\''])
def test_a_row_that_arrives_as_another_is_noticed_and_nothing_kept(source, target, filled, change):
    with make_sessions(make_engine(source.database_url)).begin() as session:
        session.get_one(Job, filled["waiting"]).spec = {"one": 0}
    engine = make_engine(target.database_url)
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN NEW.spec = {change}; RETURN NEW; END $$"
            )
        )
        connection.execute(
            text("CREATE TRIGGER other BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION other()")
        )
    with pytest.raises(CannotMove, match="jobs: sent 3 rows, found 3 or others"):
        move(source, target, tick=lambda *_: None)
    assert count_rows(target) == 0


def test_a_move_that_breaks_off_leaves_no_row_and_goes_on_where_it_was(source, target, filled, s3):
    with FailingProxy(s3.url) as proxy:
        slow = target.model_copy(update={"store_s3_endpoint": proxy.url})
        sent = []

        def fault(handler) -> bool:
            if handler.command == "PUT":
                sent.append(handler.path)
                time.sleep(0.5 if len(sent) == 1 else 60.0 if sent[0] != handler.path else 0.0)
            return False

        proxy.fault = fault
        process = move_process(source, slow)
        deadline = time.monotonic() + 120.0
        while len(sent) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert count_rows(target) == 0
        proxy.fault = lambda _: False
        proxy.asked.clear()
        assert move(source, slow, tick=lambda *_: None)["jobs"] == 3
        assert sent[0] not in [path for method, path in proxy.asked if method == "PUT"]


def move_process(source, target) -> subprocess.Popen:
    command = [sys.executable, "-m", "app.cli", "migrate"]
    arguments = ["--to", target.database_url, "--store", target.store_url]
    env = environment(target) | {
        "SECATEUR_DATABASE_URL": source.database_url,
        "SECATEUR_STORE_URL": source.store_url,
    }
    return subprocess.Popen(
        command + arguments, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_an_installation_that_is_served_is_not_moved(source, target, filled):
    with (source.data_dir / "serve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = move_process(source, target)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "stop it, then move" in error.splitlines()[-1]


def test_a_database_that_holds_rows_is_not_moved_into(source, target, filled):
    move(source, target, tick=lambda *_: None)
    with pytest.raises(CannotMove, match="expected an empty database"):
        move(source, target, tick=lambda *_: None)


def test_a_target_that_was_started_before_stays_who_it_is(source, target, filled):
    store = open_store(target)
    sessions = make_sessions(make_engine(target.database_url))
    schema.upgrade(make_engine(target.database_url))
    check_owner(sessions, store)
    check_owner(make_sessions(make_engine(source.database_url)), open_store(source))
    owner = store.read_owner()
    assert move(source, target, tick=lambda *_: None)["jobs"] == 3
    check_owner(sessions, store)
    assert store.read_owner() == owner != open_store(source).read_owner()


def test_the_store_of_another_database_is_not_moved_into(source, target, filled):
    open_store(target).write_owner("ins_other")
    with pytest.raises(CannotMove, match="the installation ins_other's"):
        move(source, target, tick=lambda *_: None)


def test_a_source_that_the_environment_names_is_not_moved(source, target, filled):
    # As it is when the target was migrated with the same variables first.
    named = source.model_copy(update={"database_url": target.database_url.replace("://", "+psycopg://")})
    with pytest.raises(CannotMove, match=r"found that SECATEUR_DATABASE_URL names .*: unset it"):
        move(named, target, tick=lambda *_: None)
    with pytest.raises(CannotMove, match=r"found the same; .*SECATEUR_STORE_URL name is the source"):
        move(source.model_copy(update={"store_url": target.store_url}), target, tick=lambda *_: None)


def test_a_folder_without_an_installation_is_not_moved(source, target, tmp_path):
    nowhere = source.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'none.db'}"})
    with pytest.raises(CannotMove, match=r"found no file .*none\.db"):
        move(nowhere, target, tick=lambda *_: None)
    assert not (tmp_path / "none.db").exists()


def test_a_source_of_another_schema_is_not_moved(source, target):
    schema.downgrade(make_engine(source.database_url), "0002")
    with pytest.raises(CannotMove, match="the schema 0002, expected 0006"):
        move(source, target, tick=lambda *_: None)


def test_lost_bytes_stop_a_move_until_they_are_noted_as_lost(source, target, filled):
    sessions = make_sessions(make_engine(source.database_url))
    blobs = open_blobs(source, sessions)
    lost = next(iter(blobs.bytes.list_older_than(-1.0))).sha256
    blobs.bytes.delete(lost)
    with pytest.raises(CannotMove, match="doctor --repair"):
        move(source, target, tick=lambda *_: None)
    assert count_rows(target) == 0
