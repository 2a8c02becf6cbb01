"""Which installation a store is of: what another database does not know is no garbage."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.db import Sessions, insert_into
from app.core.errors import Blame, SecateurError, StorageFull
from app.core.ids import new_id
from app.core.storage import BlobStore
from app.core.storage.protocol import OWNER_KEY
from app.core.tables import Installation


class ForeignStore(SecateurError):
    """Another database's rows may speak of what is in the store."""

    code, title, blame = "store_foreign", "The store is another installation's", Blame.BUG


def check_owner(sessions: Sessions, store: BlobStore, *, may_mark: bool = True) -> None:
    """Raise ForeignStore when a store is another installation's; mark one that is nobody's yet as ours."""
    with sessions.begin() as session:
        ours = _read_id(session)
    owner = store.read_owner()
    if owner is None:
        if not may_mark:
            return
        try:
            store.write_owner(ours)
        except StorageFull:
            return  # it is nobody's, and what is in it has to go before it can be marked
        # Of two that came at once, the last has it.
        owner = store.read_owner()
    if owner != ours:
        raise ForeignStore(
            f"the store {store.location} is the installation {owner}'s, and this database is {ours}'s: give "
            f"each database a store or a prefix of its own. If that database is gone for good, delete "
            f"{OWNER_KEY!r} in the store; what this database does not know is then deleted after "
            "SECATEUR_STORE_GRACE_S"
        )


def _read_id(session: Session) -> str:
    """Return the installation's id, which whoever asks first makes up."""
    # Read first: a database that takes no writes for now, after a failover say, keeps nobody from starting.
    found: str | None = session.scalar(select(Installation.id))
    if found is not None:
        return found
    session.execute(
        insert_into(session, Installation).values(number=1, id=new_id("ins")).on_conflict_do_nothing()
    )
    return session.scalars(select(Installation.id)).one()
