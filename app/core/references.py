"""Who speaks of which bytes: a new kind of reference is one more line in SOURCES."""

from collections.abc import Callable, Iterable

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core.states import ModelStatus
from app.core.tables import Artifact, Dataset, JobCheckpoint, JsonObject, Model

Wanted = frozenset[str] | None  # None: all
Source = Callable[[Session, Wanted], Iterable[tuple[str, str]]]
# As many as a statement may have parameters, and longer lists are quicker read whole.
_MOST_ASKED_FOR = 500


def _column(kind: str, column: InstrumentedAttribute[str], name: ColumnElement[str]) -> Source:
    """Digests that a column holds, each with what names its row."""

    def read(session: Session, wanted: Wanted) -> Iterable[tuple[str, str]]:
        query = select(column, name)
        if wanted is not None and len(wanted) <= _MOST_ASKED_FOR:
            query = query.where(column.in_(wanted))
        for sha256, row_name in session.execute(query):
            yield sha256, f"{kind} {row_name}"

    return read


def _files(
    kind: str,
    column: InstrumentedAttribute[JsonObject],
    name: InstrumentedAttribute[str],
    *where: ColumnElement[bool],
) -> Source:
    """Digests in a JSON column of the form {role: {sha256, …}}."""

    def read(session: Session, _: Wanted) -> Iterable[tuple[str, str]]:
        for files, row_id in session.execute(select(column, name).where(*where)):
            for role, file in files.items():
                yield str(file["sha256"]), f"{kind} {row_id} ({role})"

    return read


# A rejected model keeps its row and its reason, but not its bytes; so does what was deleted.
SOURCES: tuple[Source, ...] = (
    _files("model", Model.files, Model.id, Model.status != ModelStatus.REJECTED, Model.deleted_at.is_(None)),
    _files("dataset", Dataset.files, Dataset.id, Dataset.deleted_at.is_(None)),
    _column("artifact", Artifact.sha256, Artifact.job_id + "/" + Artifact.name),
    _files("checkpoint of job", JobCheckpoint.files, JobCheckpoint.job_id),
)


def referenced(session: Session, among: Iterable[str] | None = None) -> dict[str, str]:
    """Return the digests that rows speak of, each with one such row; with `among`, only those of these."""
    wanted = None if among is None else frozenset(among)
    return {
        sha256: row
        for source in SOURCES
        for sha256, row in source(session, wanted)
        if wanted is None or sha256 in wanted
    }
