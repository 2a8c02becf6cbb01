"""Make database engines and sessions; SQLite and Postgres behave alike from here on."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from psycopg.errors import DiskFull, IdleInTransactionSessionTimeout, ReadOnlySqlTransaction
from sqlalchemy import Connection, DateTime, Dialect, Engine, create_engine, event, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

Sessions = sessionmaker[Session]
# What a network swallows without a word is otherwise waited for by the system's own patience: two minutes for
# a connection, a quarter of an hour for an answer.
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
# A process stopped in the middle of a transaction keeps the locks of its rows, and its job could not be
# taken over: its kernel still answers, so that no keepalive notices. Postgres ends such a session.
IDLE_IN_TRANSACTION_S = 20.0


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite has no time zones, so they are taken off and put back on."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class now_plus(FunctionElement[datetime]):
    """The database's own clock plus some seconds: leases never trust the clock of a worker."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float = 0.0) -> None:
        # As a clause: what a compiled statement is found by has to tell one number of seconds from another.
        super().__init__(literal_column(f"{float(seconds):+.3f}"))


@compiles(now_plus, "sqlite")
def _now_plus_sqlite(element: now_plus, compiler: SQLCompiler, **_: object) -> str:
    # %f has three digits; SQLAlchemy writes six, and these strings are compared as text.
    seconds = compiler.process(element.clauses)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', '{seconds} seconds') || '000')"


@compiles(now_plus, "postgresql")
def _now_plus_postgresql(element: now_plus, compiler: SQLCompiler, **_: object) -> str:
    # clock_timestamp moves on inside a transaction, as SQLite's 'now' does between statements.
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses)}))"


def make_engine(database_url: str) -> Engine:
    """Open the database; for SQLite in WAL mode, durable commits, write lock taken at BEGIN."""
    url = make_url(database_url)
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite":
        given = {name: value for name, value in _PATIENCE.items() if name not in url.query}
        engine = create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20, connect_args=given)
        event.listen(engine, "connect", _configure_postgresql)
        event.listen(engine, "handle_error", _know_as_away, retval=True)
        return engine
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": 30.0})
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def make_sessions(engine: Engine, *, reads_only: bool = False) -> Sessions:
    """Make a session factory; one that only reads never waits for SQLite's single writer."""
    return sessionmaker(engine.execution_options(reads_only=reads_only), expire_on_commit=False)


@contextmanager
def transaction(sessions: Sessions) -> Iterator[Session]:
    """One job step as one transaction: commits at the end, rolls back on any error."""
    with sessions.begin() as session:
        yield session


def insert_into(session: Session, table: type[DeclarativeBase]) -> postgresql.Insert | sqlite.Insert:
    """Start an INSERT that can say what becomes of a conflict: no word of standard SQL."""
    is_postgres = session.get_bind().dialect.name == "postgresql"
    return postgresql.insert(table) if is_postgres else sqlite.insert(table)


def is_full(error: BaseException) -> bool:
    """Tell whether a database error says that its disk has no room."""
    cause = getattr(error, "orig", None)
    return isinstance(cause, DiskFull) or "disk is full" in str(cause)


def _begin_sqlite(connection: Connection) -> None:
    reads_only = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


def _configure_postgresql(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # A statement, not a startup option: poolers between us and Postgres refuse options that they do not know.
    cursor = connection.cursor()
    cursor.execute(f"SET idle_in_transaction_session_timeout = {1000 * IDLE_IN_TRANSACTION_S:.0f}")
    cursor.close()
    connection.commit()


def _know_as_away(context: ExceptionContext) -> OperationalError | None:
    """Make what is a lost session to us the error that other lost sessions are.

    One that Postgres has ended for its silence, and one to a server that only reads: after a failover the
    other server is found by connecting again.
    """
    error = context.original_exception
    if not isinstance(error, IdleInTransactionSessionTimeout | ReadOnlySqlTransaction):
        return None
    context.is_disconnect = True
    return OperationalError(context.statement, context.parameters, error, connection_invalidated=True)


def _configure_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # The driver must not open transactions by itself: the begin event above does, with the write lock,
    # so that a read followed by a write in one transaction can never fail with "database is locked".
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
