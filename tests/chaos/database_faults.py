"""Faults of the database: connections cut, servers killed, locks, a worker cut off, leases run out."""

import random
import time

import psutil
from sqlalchemy import text

from tests.chaos.faults import fault
from tests.chaos.site import Site

_SCALED = ("scaled",)


@fault("F12", weight=4, modes=_SCALED)
def cut_connections(site: Site, rng: random.Random) -> str | None:
    """Half of all connections of the processes under test, wherever in a transaction they are."""
    with site.cluster.engine.begin() as connection:
        pids = list(
            connection.scalars(
                text(
                    "SELECT pid FROM pg_stat_activity "
                    "WHERE application_name ~ '^(api|relay|worker)' ORDER BY pid"
                )
            )
        )
        chosen = rng.sample(pids, (len(pids) + 1) // 2)
        for pid in chosen:
            connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
    return f"{len(chosen)} connections" if chosen else None


@fault("F12", weight=1, modes=_SCALED)
def kill_postgres(site: Site, rng: random.Random) -> str | None:
    assert site.postgres is not None
    down_s = rng.uniform(0.0, 3.0)
    site.postgres.kill()
    try:
        time.sleep(down_s)
    finally:
        site.postgres.launch()
        site.cluster.engine.dispose()
    return f"postgres, down for {down_s:.1f} s"


@fault("F12", weight=1, modes=_SCALED)
def lock_jobs(site: Site, rng: random.Random) -> str | None:
    """Somebody's migration locks the table for longer than a lease."""
    with site.cluster.engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '2s'"))
        connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
        time.sleep(site.lease_s * 1.2)
    return f"jobs locked for {site.lease_s * 1.2:.0f} s"


@fault("F12", weight=1, modes=("embedded",))
def hold_write_lock(site: Site, rng: random.Random) -> str | None:
    """Somebody's tool holds SQLite's one write lock for longer than a lease."""
    with site.cluster.engine.begin():
        time.sleep(site.lease_s * 1.2)
    return f"write lock held for {site.lease_s * 1.2:.0f} s"


@fault("F21", weight=1, modes=_SCALED)
def cut_off_worker(site: Site, rng: random.Random) -> str | None:
    """A worker loses the database for longer than a lease, and keeps the store."""
    workers = [w for w in site.cluster.find("worker") if site.running_jobs(w)]
    if not workers:
        return None
    name = _name_of(site, rng.choice(workers))
    until = time.monotonic() + site.lease_s * 1.5
    while time.monotonic() < until:
        with site.cluster.engine.begin() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"),
                {"name": name},
            )
        time.sleep(0.01)
    return f"{name} for {site.lease_s * 1.5:.0f} s"


@fault("F7", "F20", weight=3)
def run_leases_out(site: Site, rng: random.Random) -> str | None:
    """The lease of a job ends under its owner, who is awake and does not know."""
    jobs = site.running_jobs()
    if not jobs:
        return None
    job_id = rng.choice(jobs)
    with site.cluster.engine.begin() as connection:
        changed = connection.execute(
            text("UPDATE jobs SET lease_until = :past WHERE id = :id AND status = 'running'"),
            {"past": "2001-01-01 00:00:00.000000", "id": job_id},
        )
    return f"lease of {job_id}" if changed.rowcount else None


def _name_of(site: Site, worker: psutil.Process) -> str:
    return next(m.name for m in site.cluster.members if m.process and m.process.pid == worker.pid)
