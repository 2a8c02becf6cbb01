"""Make a cluster of either mode ready to be hurt, and clear it away afterwards."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from app import valkey
from app.core.config import Settings
from tests.chaos.cluster import LIGHT_RUNNER, QUICK, EmbeddedCluster, ScaledCluster, drop_folder, make_folder
from tests.chaos.site import Site
from tests.support.postgres import PostgresServer


@contextmanager
def scaled(postgres: PostgresServer, *, apis: int = 2, workers: int = 3, **changes: object) -> Iterator[Site]:
    """Several processes of each kind on Postgres, with light runners unless told otherwise."""
    folder = make_folder()
    values = QUICK | {
        "data_dir": folder / "data",
        "database_url": postgres.create_database(f"chaos{uuid.uuid4().hex}"),
        "broker_url": valkey.broker_url(folder / "valkey.sock"),
        "runner_module": LIGHT_RUNNER,
    }
    cluster = ScaledCluster(Settings(**(values | changes)), folder, apis=apis, workers=workers)
    try:
        cluster.start()
        yield Site(cluster, postgres)
    finally:
        cluster.stop()
        drop_folder(folder)


@contextmanager
def embedded(**changes: object) -> Iterator[Site]:
    """One `secateur serve` on SQLite."""
    folder = make_folder()
    values = QUICK | {"data_dir": folder, "runner_module": LIGHT_RUNNER, "worker_slots": 2}
    cluster = EmbeddedCluster(Settings(**(values | changes)), folder)
    try:
        cluster.start()
        yield Site(cluster)
    finally:
        cluster.stop()
        drop_folder(folder)
