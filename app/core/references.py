"""Who speaks of which bytes: a new kind of reference is one more line in SOURCES."""

from collections.abc import Callable, Iterable

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core.states import ModelStatus
from app.core.tables import Artifact, Dataset, JobCheckpoint, JsonObject, Model

Source = Callable[[Session], Iterable[tuple[str, str]]]


def _column(kind: str, query: Select[str, str]) -> Source:
    """Digests that a column holds, each with what names its row."""
    return lambda session: ((sha256, f"{kind} {name}") for sha256, name in session.execute(query))


def _files(
    kind: str,
    column: InstrumentedAttribute[JsonObject],
    name: InstrumentedAttribute[str],
    *where: ColumnElement[bool],
) -> Source:
    """Digests in a JSON column of the form {role: {sha256, …}}."""

    def read(session: Session) -> Iterable[tuple[str, str]]:
        for files, row_id in session.execute(select(column, name).where(*where)):
            for role, file in files.items():
                yield str(file["sha256"]), f"{kind} {row_id} ({role})"

    return read


# A rejected model keeps its row and its reason, but not its bytes; so does what was deleted.
SOURCES: tuple[Source, ...] = (
    _files("model", Model.files, Model.id, Model.status != ModelStatus.REJECTED, Model.deleted_at.is_(None)),
    _files("dataset", Dataset.files, Dataset.id, Dataset.deleted_at.is_(None)),
    _column("artifact", select(Artifact.sha256, Artifact.job_id + "/" + Artifact.name)),
    _files("checkpoint of job", JobCheckpoint.files, JobCheckpoint.job_id),
)


def referenced(session: Session, among: Iterable[str] | None = None) -> dict[str, str]:
    """Return the digests that rows speak of, each with one such row; with `among`, only those of these."""
    wanted = None if among is None else frozenset(among)
    return {
        sha256: row
        for source in SOURCES
        for sha256, row in source(session)
        if wanted is None or sha256 in wanted
    }
