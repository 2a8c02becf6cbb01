"""Delete what nothing refers to any more, and never what something refers to (see app.core.accounts)."""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session

from app.core import accounts
from app.core.db import Sessions, now_plus
from app.core.errors import SecateurError
from app.core.references import referenced
from app.core.states import BlobState
from app.core.storage import BlobStore
from app.core.tables import Blob, IdempotencyKey

_log = logging.getLogger(__name__)
# So many that cannot be deleted in one round are the store's trouble, and not theirs.
_MOST_FAILURES = 5
# However short the grace: an upload over a slow line may pause, and is still one.
_ABANDONED_S = 3600.0


@dataclass(frozen=True)
class Unused:
    """Bytes that no row spoke of when their account had been touched `touches` times."""

    sha256: str
    touches: int


def collect(sessions: Sessions, store: BlobStore, *, grace_s: float) -> int:
    """Delete bytes that nobody has touched for the grace and no row speaks of; returns how many.

    Any number of collectors may run; a reference of a kind that is not in app.core.references is not seen.
    """
    with store.collecting() as takeover_s:
        if takeover_s is None:
            return 0
        drop_abandoned(store, grace_s=grace_s)
        unused = [*find_unfinished(sessions, takeover_s), *find_unused(sessions, grace_s=grace_s)]
        return _delete(sessions, store, unused)


def drop_abandoned(store: BlobStore, *, grace_s: float) -> None:
    """Delete uploads that broke off on this machine, which with a bucket none but its own processes see."""
    store.drop_abandoned(max(grace_s, _ABANDONED_S))


def collect_released(sessions: Sessions, store: BlobStore) -> int:
    """Delete bytes that were released and that no row speaks of; few are looked at, so it may run often."""
    with store.collecting() as takeover_s:
        if takeover_s is None:
            return 0
        return _delete(sessions, store, find_unused(sessions, grace_s=accounts.RELEASED_S / 2))


def find_unused(sessions: Sessions, *, grace_s: float) -> list[Unused]:
    """Return what may be deleted unless it is touched from now on."""
    with _reading(sessions) as session:
        old = _read(session, Blob.state != BlobState.DELETING, older_than_s=grace_s)
    if not old:
        return []
    # After the accounts: what is referred to from now on touches its account, and so keeps its bytes.
    with _reading(sessions) as session:
        used = referenced(session, (unused.sha256 for unused in old))
    return [unused for unused in old if unused.sha256 not in used]


def find_unfinished(sessions: Sessions, takeover_s: float) -> list[Unused]:
    """Return deletions whose collector died on the way."""
    with _reading(sessions) as session:
        return _read(session, Blob.state == BlobState.DELETING, older_than_s=takeover_s)


def mark(sessions: Sessions, unused: Unused) -> bool:
    """Take the right to delete the bytes; False when somebody has touched them meanwhile."""
    with sessions.begin() as session:
        return accounts.change(session, unused.sha256, BlobState.DELETING, touches=unused.touches)


def delete_marked(sessions: Sessions, store: BlobStore, unused: Unused) -> None:
    """Delete the bytes, then their account: until then nobody can bring them again."""
    store.delete(unused.sha256)
    with sessions.begin() as session:
        accounts.close(session, unused.sha256, touches=unused.touches + 1)


def adopt_unknown(sessions: Sessions, store: BlobStore, *, grace_s: float) -> int:
    """Open an account for old bytes that have none, so that they are collected when nothing speaks of them.

    They count as touched now: a process of an older version may be about to refer to them.
    """
    with _reading(sessions) as session:
        known = frozenset(session.scalars(select(Blob.sha256)))
    unknown = [blob for blob in store.list_older_than(grace_s) if blob.sha256 not in known]
    with sessions.begin() as session:
        return sum(accounts.adopt(session, blob.sha256, blob.size_bytes, age_s=0.0) for blob in unknown)


def _delete(sessions: Sessions, store: BlobStore, unused: list[Unused]) -> int:
    """Delete all that can be; raises the last error once too many cannot."""
    deleted = failed = 0
    # In any order: what cannot be deleted keeps nothing else from it, in this round or in another.
    for one in random.sample(unused, len(unused)):
        try:
            if mark(sessions, one):
                delete_marked(sessions, store, one)
                deleted += 1
        except (SecateurError, OSError) as error:
            _log.warning("bytes not deleted", extra={"sha256": one.sha256, "error": str(error)})
            failed += 1
            if failed >= _MOST_FAILURES:
                raise
    if deleted:
        _log.info("bytes collected", extra={"blobs": deleted})
    return deleted


def forget_idempotency_keys(session: Session, *, older_than_s: float) -> None:
    """Delete keys past their time: a request that comes with one then counts as new."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now_plus(-older_than_s)))


@contextmanager
def _reading(sessions: Sessions) -> Iterator[Session]:
    """Read without the lock of SQLite's only writer, for which uploads wait."""
    with sessions() as session:
        session.connection(execution_options={"reads_only": True})
        yield session


def _read(session: Session, which: ColumnElement[bool], *, older_than_s: float) -> list[Unused]:
    query = select(Blob.sha256, Blob.touches).where(which, Blob.touched_at < now_plus(-older_than_s))
    return [Unused(row.sha256, row.touches) for row in session.execute(query)]
