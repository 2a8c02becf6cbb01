"""Delete what nothing refers to any more."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.core.db import Sessions, now_plus
from app.core.states import ModelStatus
from app.core.storage import LocalStore
from app.core.tables import Artifact, Dataset, IdempotencyKey, Model

# An upload is in the store before its row commits: young bytes are never garbage.
_GRACE_S = 3600.0


def collect(sessions: Sessions, store: LocalStore, *, grace_s: float = _GRACE_S) -> int:
    """Delete bytes older than the grace that no model, dataset or artifact refers to; returns how many.

    A rejected model keeps its row and its reason, but not its bytes; so does a deleted one.
    """
    store.drop_abandoned(max(grace_s, _GRACE_S))
    candidates = list(store.list_older_than(grace_s))
    if not candidates:
        return 0
    with sessions() as session:
        used = _referenced(session)
    garbage = [sha256 for sha256 in candidates if sha256 not in used]
    for sha256 in garbage:
        store.delete(sha256)
    return len(garbage)


def forget_idempotency_keys(session: Session, *, older_than_s: float) -> None:
    """Delete keys past their time: a request that comes with one then counts as new."""
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now_plus(-older_than_s)))


def _referenced(session: Session) -> set[str]:
    used = set(session.scalars(select(Artifact.sha256)))
    kept = (Model.status != ModelStatus.REJECTED) & Model.deleted_at.is_(None)
    for files in session.scalars(select(Model.files).where(kept)):
        used.update(file["sha256"] for file in files.values())
    for files in session.scalars(select(Dataset.files).where(Dataset.deleted_at.is_(None))):
        used.update(file["sha256"] for file in files.values())
    return used
