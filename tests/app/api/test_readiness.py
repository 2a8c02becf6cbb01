"""Readiness names each part that is wrong; liveness asks nobody."""

import resource
import signal

import pytest
from sqlalchemy import text

from app.core.queue import make_celery
from tests.app.api.test_problems import check_problem
from tests.support import uploads
from tests.support.service import Service, wait_for

DATABASES = ("sqlite",)


def faults(client) -> dict[str, str]:
    problem = check_problem(client.get("/readyz"), 503, "unavailable")
    assert client.get("/livez").status_code == 200
    return {item["pointer"]: item["code"] for item in problem["errors"]}


def set_revision(client, revision: str) -> None:
    with client.app.state.parts.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


@pytest.mark.parametrize(("revision", "code"), [("0001", "schema_older"), ("9999", "schema_newer")])
def test_an_older_and_a_newer_schema_are_told_apart(serve, revision, code):
    client = serve()
    assert client.get("/readyz").status_code == 200
    set_revision(client, revision)
    assert faults(client) == {"/schema": code}


def test_a_database_that_went_away_is_named_and_comes_back(serve, tmp_path):
    client = serve()
    database = tmp_path / "secateur.db"
    client.app.state.parts.engine.dispose()
    database.rename(tmp_path / "away")
    database.mkdir()
    assert faults(client) == {"/database": "database_unreachable"}
    database.rmdir()
    (tmp_path / "away").rename(database)
    assert client.get("/readyz").status_code == 200


def test_a_store_that_went_away_is_named(serve, tmp_path):
    client = serve()
    incoming = tmp_path / "store" / "incoming"
    incoming.rmdir()
    assert faults(client) == {"/store": "store_not_writable"}


def test_a_full_store_is_ready_for_what_it_has(serve):
    client = serve()
    assert client.get("/readyz").status_code == 200  # the connection to the database is open
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        upload, ready = uploads.upload_model(client), client.get("/readyz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (upload.status_code, ready.status_code) == (507, 200), ready.json()


def test_a_broker_that_went_away_is_named_without_its_address(tmp_path, serve):
    service = Service(tmp_path / "broker", "sqlite:///unused")
    service.restart_valkey()
    try:
        client = serve(broker_url=service.settings.broker_url)
        wait_for(lambda: client.get("/readyz").status_code == 200, "the broker")
        service.kill("valkey")
        answer = client.get("/readyz")
        assert str(tmp_path) not in answer.text
        assert faults(client) == {"/broker": "broker_unreachable"}
    finally:
        service.stop()


def test_a_broker_that_sleeps_does_not_hold_the_answer_for_ever(tmp_path, serve):
    service = Service(tmp_path / "broker", "sqlite:///unused")
    service.restart_valkey()
    try:
        client = serve(broker_url=service.settings.broker_url)
        wait_for(lambda: client.get("/readyz").status_code == 200, "the broker")
        sleeper = service.processes["valkey"]
        sleeper.send_signal(signal.SIGSTOP)
        assert faults(client) == {"/broker": "broker_unreachable"}
        sleeper.send_signal(signal.SIGCONT)
        wait_for(lambda: client.get("/readyz").status_code == 200, "the broker to be back")
    finally:
        service.stop()


def test_everything_that_is_wrong_is_named_at_once(serve, tmp_path):
    client = serve()
    (tmp_path / "store" / "incoming").rmdir()
    set_revision(client, "9999")
    assert faults(client) == {"/schema": "schema_newer", "/store": "store_not_writable"}


def test_a_broker_in_a_folder_is_ready(tmp_path, serve):
    assert serve().get("/readyz").status_code == 200
    assert make_celery(f"filesystem://{tmp_path}/b").conf.broker_url == "filesystem://"
