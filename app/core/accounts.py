"""The account of stored bytes, one row a digest: it makes deleting and uploading safe side by side.

Whoever brings bytes announces them first, in a transaction of its own, then writes them to the store, then
confirms that they are there, then refers to them in the transaction of the row that speaks of them. Until
somebody has confirmed them they are `missing`, and cannot be referred to. A collector marks a row `deleting`
before it deletes its bytes, and only if nobody touched the row since before the references were read. So

- a reference that commits after those were read has touched the row, and the mark fails;
- a reference that comes after the mark finds `deleting` and is refused: nothing was promised to anybody;
- an announcement that finds `deleting` waits until the bytes are gone, then brings them again;
- a confirmation holds the row while it looks for the bytes: whoever was silent for so long that they were
  deleted, and announced by somebody else who has not written them yet, learns that they are gone.

What holds a row in one transaction is always an UPDATE, which both databases serialise.
"""

import time
from collections.abc import Callable, Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from app.core.db import Sessions, insert_into, now_plus
from app.core.states import BlobState
from app.core.storage.errors import BlobGone, StoreUnavailable
from app.core.tables import Blob

_PATIENCE_S = 30.0
_POLL_S = 0.1
# Bytes that were released count as untouched for so long, whatever the grace: ten years.
RELEASED_S = 10 * 365 * 86_400.0


def announce(sessions: Sessions, sha256: str, size_bytes: int, *, patience_s: float = _PATIENCE_S) -> None:
    """Say that bytes are about to be written; raises StoreUnavailable when a collector does not let go."""
    deadline = time.monotonic() + patience_s
    while not _try_to_announce(sessions, sha256, size_bytes):
        if time.monotonic() > deadline:
            raise StoreUnavailable("these very bytes are being deleted; try again in some minutes")
        time.sleep(_POLL_S)


def confirm(session: Session, sha256: str, *, is_there: Callable[[], bool]) -> None:
    """Say that announced bytes were written; raises BlobGone when they are gone again.

    `is_there` looks for them in the store, which nobody can delete them from while they are held.
    """
    _hold(session, sha256, Blob.state != BlobState.DELETING)
    if not is_there():
        raise _make_error(sha256)


def refer(session: Session, digests: Iterable[str]) -> None:
    """Hold bytes for a row that the caller's transaction adds; raises BlobGone when they are not there."""
    # In order, so that two transactions over the same bytes never wait for each other.
    for sha256 in sorted(set(digests)):
        _hold(session, sha256, Blob.state == BlobState.PRESENT)


def release(session: Session, digests: Iterable[str], *, since: datetime) -> None:
    """Say that the row which held bytes `since` then is gone: without another, they may go without a grace.

    What somebody has touched since, or is touching now, keeps its grace: it may be on its way to another row.
    """
    free = select(Blob.sha256).where(
        Blob.sha256.in_(sorted(set(digests))), Blob.state == BlobState.PRESENT, Blob.touched_at <= since
    )
    # Locked rows are passed over: two transactions over the same bytes never wait for each other here.
    session.execute(
        update(Blob)
        .where(Blob.sha256.in_(free.with_for_update(skip_locked=True)))
        .values(touched_at=now_plus(-RELEASED_S), touches=Blob.touches + 1)
    )


def adopt(session: Session, sha256: str, size_bytes: int, *, age_s: float) -> bool:
    """Open an account for bytes that the store has and no account speaks of, touched `age_s` seconds ago."""
    row = {"sha256": sha256, "size_bytes": size_bytes, "state": BlobState.PRESENT, "touches": 0}
    added = session.execute(
        insert_into(session, Blob)
        .values(**row, touched_at=now_plus(-age_s))
        .on_conflict_do_nothing()
        .returning(Blob.sha256)
    )
    return added.one_or_none() is not None


def read_state(session: Session, sha256: str) -> tuple[BlobState, int] | None:
    """Return the state of bytes and how often they were touched; None without an account."""
    row = session.execute(select(Blob.state, Blob.touches).where(Blob.sha256 == sha256)).one_or_none()
    return None if row is None else (BlobState(row.state), row.touches)


def change(session: Session, sha256: str, state: BlobState, *, touches: int) -> bool:
    """Change the state unless somebody touched the row since it had that many touches; says whether."""
    changed = session.execute(
        update(Blob)
        .where(Blob.sha256 == sha256, Blob.touches == touches)
        .values(state=state, touched_at=now_plus(), touches=Blob.touches + 1)
        .returning(Blob.sha256)
    )
    return changed.one_or_none() is not None


def close(session: Session, sha256: str, *, touches: int) -> None:
    """End the account of bytes that are deleted, unless somebody touched the row since."""
    session.execute(
        delete(Blob).where(Blob.sha256 == sha256, Blob.touches == touches, Blob.state == BlobState.DELETING)
    )


def _hold(session: Session, sha256: str, which: ColumnElement[bool]) -> None:
    held = session.execute(
        update(Blob)
        .where(Blob.sha256 == sha256, which)
        .values(state=BlobState.PRESENT, touched_at=now_plus(), touches=Blob.touches + 1)
        .returning(Blob.sha256)
    ).one_or_none()
    if held is None:
        raise _make_error(sha256)


def _make_error(sha256: str) -> BlobGone:
    return BlobGone(f"the store lost the bytes {sha256} since they were uploaded; upload them again")


def _try_to_announce(sessions: Sessions, sha256: str, size_bytes: int) -> bool:
    with sessions.begin() as session:
        added = insert_into(session, Blob).values(
            sha256=sha256, size_bytes=size_bytes, state=BlobState.MISSING, touches=0, touched_at=now_plus()
        )
        announced = session.execute(
            added.on_conflict_do_update(
                index_elements=[Blob.sha256],
                set_={
                    "size_bytes": size_bytes,
                    "touched_at": now_plus(),
                    "touches": Blob.touches + 1,
                },
                where=Blob.state != BlobState.DELETING,
            ).returning(Blob.sha256)
        )
        return announced.one_or_none() is not None
