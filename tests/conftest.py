"""Fixtures on real parts: SQLite files, a real Postgres, a real Valkey."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before torch is imported anywhere: two processes with two threads each on two cores are five times slower.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
for _name in [
    name
    for name in os.environ
    if name.startswith(("SECATEUR_", "AWS_")) and not name.startswith("SECATEUR_BENCH")
]:
    del os.environ[_name]

from tests.support.postgres import PostgresServer  # noqa: E402
from tests.support.s3 import S3Server  # noqa: E402

# A slow machine is no failure: neither a deadline for one example nor a verdict on how fast they are made.
settings.register_profile("secateur", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("secateur")


# They wait for processes, and take minutes a file: last, one of them would leave the other cores idle.
_FIRST = ("tests/e2e", "tests/chaos", "tests/docs", "tests/worker/pipeline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(_FIRST))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind that Secateur runs on."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'secateur.db'}"
    return request.getfixturevalue("postgres").create_database(f"t{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server
