"""Moments in which a random kill rarely lands, reached from outside: a table lock holds a process just there.

The product has no failpoints for it. A process that waits for the lock has done all that comes before and
nothing of what comes after; Postgres says who waits, by the name that each process connects under.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
from sqlalchemy import Connection, text

from tests.chaos.site import Site
from tests.support.service import wait_for


@dataclass(frozen=True)
class CrashPoint:
    """Kill a `role` when it waits for the lock of `table` with a statement that begins so."""

    name: str
    role: str
    table: str
    statement: str


_PER_STATEMENT = (
    ("api: job inserted, not committed", "outbox", "INSERT INTO outbox"),
    ("api: bytes in the store, no row yet", "models", "INSERT INTO models"),
    ("api: cancel noted, not committed", "job_events", "INSERT INTO job_events"),
    ("relay: published, not marked", "outbox", "UPDATE outbox"),
    ("relay: lease taken back, not committed", "job_attempts", "UPDATE job_attempts"),
    ("worker: claimed, not committed", "job_attempts", "INSERT INTO job_attempts"),
    ("worker: heard an event, not written", "job_events", "INSERT INTO job_events"),
    ("worker: artifacts stored, no result yet", "job_reports", "INSERT INTO job_reports"),
    ("worker: model checked, verdict not committed", "models", "UPDATE models"),
)
POINTS = {
    name: CrashPoint(
        name,
        role=name.partition(":")[0],
        table=table,
        statement=statement,
    )
    for name, table, statement in _PER_STATEMENT
}


def crash_at(site: Site, point: CrashPoint, trigger: Callable[[], object]) -> str:
    """Let `trigger` run into the lock, kill whoever waits there, let go; returns the victim's name."""
    with _locked(site, point) as connection:
        thread = threading.Thread(target=trigger, name="trigger", daemon=True)
        thread.start()
        victim = wait_for(lambda: _who_waits(connection, point), f"a {point.role} at: {point.name}")
        _kill(site, victim)
    thread.join(60.0)
    assert not thread.is_alive(), f"{point.name}: what set it off never came to an end"
    return victim


@contextlib.contextmanager
def asleep(site: Site, role: str) -> Iterator[Callable[[], None]]:
    """Stop all processes of a role; they wake when the given function is called, or at the end."""
    sleepers = site.cluster.find(role)

    def wake() -> None:
        for process in sleepers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    for process in sleepers:
        process.send_signal(signal.SIGSTOP)
    try:
        yield wake
    finally:
        wake()


@contextlib.contextmanager
def _locked(site: Site, point: CrashPoint) -> Iterator[Connection]:
    # The names are those of POINTS above.
    with site.cluster.engine.connect() as connection:
        # The harness holds it for as long as it takes; a session of the product would be ended after 20 s.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        connection.execute(text(f"LOCK TABLE {point.table} IN EXCLUSIVE MODE"))
        try:
            yield connection
        finally:
            connection.rollback()


def _who_waits(connection: Connection, point: CrashPoint) -> str | None:
    query = text(
        "SELECT application_name FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND application_name LIKE :role AND query LIKE :statement ORDER BY application_name LIMIT 1"
    )
    found = {"role": f"{point.role}%", "statement": f"{point.statement}%"}
    # Inside one transaction Postgres shows the activity of its start, unless told otherwise.
    connection.execute(text("SELECT pg_stat_clear_snapshot()"))
    name: str | None = connection.scalar(query, found)
    return name


def _kill(site: Site, name: str) -> None:
    member = next(m for m in site.cluster.members if m.name == name)
    assert member.process is not None
    os.kill(member.process.pid, signal.SIGKILL)
