"""Move an embedded installation to a scaled one: blobs first, then all rows in one transaction.

A move that breaks off is started again: blobs that are there are skipped, and rows come all or not at all.
"""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Integer, Row, Table, func, insert, select, text
from sqlalchemy.orm import Session

from app.core import accounts, job_returns, ownership, schema
from app.core.blobs import Blobs, open_blobs
from app.core.config import Settings
from app.core.db import make_sessions
from app.core.job_writes import Lease
from app.core.references import referenced
from app.core.startup import open_database, open_store
from app.core.states import BlobState, JobStatus
from app.core.storage import BlobDamaged, BlobMissing, BlobStore, reading
from app.core.tables import Base, Blob, Installation, Job
from app.core.urls import mask_url

_CHUNK_ROWS = 200
_IN_PAGES = {"yield_per": _CHUNK_ROWS}
# More digits than any number that the parser of JSON reads.
_EXACT = Context(prec=10_000)

Tick = Callable[[str, int, int], None]


class CannotMove(Exception):
    """The installation stays as it is; the message says why and what to do."""


def move(source: Settings, target: Settings, *, tick: Tick) -> dict[str, int]:
    """Copy everything and return the number of rows by table, with that of the blobs.

    Raises CannotMove, and leaves the source untouched.
    """
    _refuse_what_is_not_embedded(source)
    _refuse_itself(source, target)
    with _not_served(source):
        return _move(source, target, tick)


def _move(source: Settings, target: Settings, tick: Tick) -> dict[str, int]:
    from_engine, to_engine = open_database(source), open_database(target, said_by="--to")
    try:
        to_store = open_store(target, said_by="--store")
        _refuse_other_schema(from_engine)
        schema.upgrade(to_engine)
        _refuse_rows(to_engine)
        _refuse_foreign(to_engine, to_store)
        moved = _move_blobs(from_engine, source, to_store, tick)
        counts = _move_rows(from_engine, to_engine, moved, tick)
        return counts | {"stored blobs": len(moved)}
    finally:
        from_engine.dispose()
        to_engine.dispose()


@contextmanager
def _not_served(settings: Settings) -> Iterator[None]:
    """Hold the data folder against `secateur serve`: rows that come during a move would be left behind."""
    if not settings.data_dir.is_dir():
        raise CannotMove(f"expected an installation in {settings.data_dir}, found no such folder")
    with (settings.data_dir / "serve.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotMove(
                f"`secateur serve` uses {settings.data_dir}; stop it, then move: its jobs go on afterwards"
            ) from error
        yield


def _refuse_what_is_not_embedded(source: Settings) -> None:
    """Refuse a source that the environment names, as it does where the target was set up before."""
    scheme, _, path = source.database_url.partition(":///")
    if scheme != "sqlite":
        raise CannotMove(
            f"expected an embedded installation in {source.data_dir}, found that SECATEUR_DATABASE_URL names "
            f"{mask_url(source.database_url)}: unset it, and SECATEUR_STORE_URL with it"
        )
    if not Path(path).is_file():
        raise CannotMove(f"expected the database of an embedded installation, found no file {path}")


def _refuse_itself(source: Settings, target: Settings) -> None:
    if source.database_url == target.database_url or source.store_url == target.store_url:
        raise CannotMove(
            "expected another database and another store than the source's, found the same; what "
            "SECATEUR_DATABASE_URL and SECATEUR_STORE_URL name is the source: unset them"
        )


def _refuse_other_schema(engine: Engine) -> None:
    found = schema.find(engine)
    if found.age is not schema.SchemaAge.CURRENT:
        raise CannotMove(
            f"the source has the schema {found.found}, expected {found.expected}; "
            "run `secateur migrate` on it first"
        )


def _refuse_rows(engine: Engine) -> None:
    with engine.connect() as connection:
        for table in _tables():
            if connection.scalar(select(func.count()).select_from(table)):
                raise CannotMove(
                    f"expected an empty database to move into, found rows in {table.name}; "
                    "make a new one, or empty this one"
                )


def _refuse_foreign(engine: Engine, store: BlobStore) -> None:
    try:
        ownership.check_owner(make_sessions(engine), store)
    except ownership.ForeignStore as error:
        raise CannotMove(error.detail) from error


def _tables() -> list[Table]:
    """Return what is moved: all but who the target itself is, which its store is marked with."""
    return [table for table in Base.metadata.sorted_tables if table is not Installation.__table__]


def _move_blobs(engine: Engine, source: Settings, target: BlobStore, tick: Tick) -> dict[str, int]:
    """Copy what rows speak of, checked on the way in and read back there; returns sizes by digest."""
    sessions = make_sessions(engine)
    blobs = open_blobs(source, sessions)
    with sessions() as session:
        wanted = sorted(referenced(session).items())
        lost = _noted_as_lost(session)
    moved: dict[str, int] = {}
    for done, (sha256, row) in enumerate(wanted):
        tick("blobs", done, len(wanted))
        if sha256 not in lost:
            moved[sha256] = _move_blob(blobs, target, sha256, row, source)
    tick("blobs", len(wanted), len(wanted))
    return moved


def _noted_as_lost(session: Session) -> set[str]:
    states = (BlobState.MISSING, BlobState.DAMAGED)
    return set(session.scalars(select(Blob.sha256).where(Blob.state.in_(states))))


def _move_blob(blobs: Blobs, target: BlobStore, sha256: str, row: str, source: Settings) -> int:
    try:
        size_bytes = blobs.size(sha256)
        if _size_there(target, sha256) != size_bytes:
            path = source.data_dir / "incoming" / sha256
            try:
                blobs.fetch(sha256, path)
                target.put_file(path, sha256)
            finally:
                path.unlink(missing_ok=True)
    except (BlobMissing, BlobDamaged) as error:
        raise CannotMove(
            f"{row}: {error.detail}; `secateur doctor --repair` notes it as lost, and a move goes without it"
        ) from error
    try:
        reading.verify(target, sha256)
    except (BlobMissing, BlobDamaged) as error:
        target.quarantine(sha256)
        raise CannotMove(f"{row}: the target store has other bytes: {error.detail}; start again") from error
    return size_bytes


def _size_there(target: BlobStore, sha256: str) -> int | None:
    try:
        return target.size(sha256)
    except BlobMissing:
        return None


def _move_rows(from_engine: Engine, to_engine: Engine, moved: dict[str, int], tick: Tick) -> dict[str, int]:
    """Copy every table in one transaction, compare both sides, then queue what ran."""
    counts: dict[str, int] = {}
    tables = _tables()
    with from_engine.connect() as read, Session(to_engine) as session, session.begin():
        write = session.connection()
        for done, table in enumerate(tables):
            tick("tables", done, len(tables))
            counts[table.name] = _copy(table, read, write)
            _restart_numbers(table, write)
        _keep_only_moved_blobs(session, moved)
        _queue_what_ran(session)
    tick("tables", len(tables), len(tables))
    return counts


def _copy(table: Table, read: Connection, write: Connection) -> int:
    """Copy a table; raises CannotMove when what is read back is not what was written."""
    count, sent = 0, 0
    rows = read.execute(select(table), execution_options=_IN_PAGES)
    for page in rows.partitions(_CHUNK_ROWS):
        write.execute(insert(table), [dict(row._mapping) for row in page])
        count += len(page)
        sent ^= _fold(page)
    back = write.execute(select(table), execution_options=_IN_PAGES)
    got, found = 0, 0
    for page in back.partitions(_CHUNK_ROWS):
        got += len(page)
        found ^= _fold(page)
    if (got, found) != (count, sent):
        raise CannotMove(f"{table.name}: sent {count} rows, found {got} or others; nothing was kept")
    return count


def _fold(rows: Any) -> int:  # Any: rows of any table
    """Fold rows into one number that does not depend on their order: keys make every row another."""
    folded = 0
    for row in rows:
        folded ^= int.from_bytes(hashlib.sha256(_canonical(row)).digest())
    return folded


def _canonical(row: Row[Any]) -> bytes:  # Any: columns of any table
    return json.dumps([_plain(value) for value in row], sort_keys=True).encode()


def _plain(value: Any) -> Any:  # Any: what a column may hold
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"number": _digits(value)}
    return value


def _digits(value: int | float) -> str:
    """Write a number one way: jsonb keeps its digits, but gives 1e+26 back as an integer and -0.0 as 0.0."""
    return str(Decimal(repr(value or 0)).normalize(_EXACT))


def _restart_numbers(table: Table, write: Connection) -> None:
    """Let Postgres count on from the highest number: it does not see those that came with the rows."""
    column = table.autoincrement_column
    if write.dialect.name != "postgresql" or column is None or not isinstance(column.type, Integer):
        return
    highest = write.scalar(select(func.max(column)))
    sequence = write.scalar(select(func.pg_get_serial_sequence(table.name, column.name)))
    if highest is not None and sequence is not None:
        write.execute(text("SELECT setval(:sequence, :highest)"), {"sequence": sequence, "highest": highest})


def _keep_only_moved_blobs(session: Session, moved: dict[str, int]) -> None:
    """Close the accounts of bytes that nothing speaks of: they stayed behind."""
    used = referenced(session)
    for sha256 in session.scalars(select(Blob.sha256)).all():
        if sha256 not in used:
            session.delete(session.get_one(Blob, sha256))
    session.flush()
    for sha256, size_bytes in moved.items():
        accounts.adopt(session, sha256, size_bytes, age_s=0.0)


def _queue_what_ran(session: Session) -> None:
    """Give every running job back to the queue, which costs it no attempt."""
    running = session.execute(select(Job.id, Job.epoch).where(Job.status == JobStatus.RUNNING)).all()
    for job_id, epoch in running:
        job_returns.release(session, Lease(job_id, epoch), "the installation moved")


def tables_of(counts: dict[str, int]) -> Iterator[str]:
    """Say what was moved, a line a table that has rows."""
    for name, count in counts.items():
        if count:
            yield f"{name}: {count:,}"
