"""Clean up after others, chore by chore: one that fails keeps none of the others from its turn."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from app.core import checkpoints, garbage, outbox, ownership, schema, webhooks
from app.core.config import Settings
from app.core.db import Sessions, make_sessions
from app.core.storage import BlobStore

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 10.0
# A rare chore that could not be done is not put off for a day.
_AGAIN_AFTER_S = 600.0


@dataclass
class Chore:
    """Something to do now and then; `due` is on the monotonic clock, and the first time is at once."""

    name: str
    every_s: float
    do: Callable[[], object]
    due: float = 0.0


class Cleaner:
    """Forgets what is over and deletes bytes that no row speaks of, for as long as it knows all rows.

    What a newer version has added to the schema may speak of bytes that this one takes for garbage, and so
    does another installation whose store it is.
    """

    def __init__(self, engine: Engine, store: BlobStore, settings: Settings) -> None:
        self._engine, self._store = engine, store
        self._sessions = sessions = make_sessions(engine)
        grace_s = settings.store_grace_s
        self.chores = [
            Chore("forget what is over", 600.0, lambda: _forget(sessions, settings)),
            # A training writes a checkpoint a minute, and each replaces one.
            Chore("collect what was released", 60.0, lambda: garbage.collect_released(sessions, store)),
            Chore("collect", 600.0, lambda: garbage.collect(sessions, store, grace_s=grace_s)),
            # A list of all that the store has: for bytes that lost their account, which is rare.
            Chore("adopt", 86_400.0, lambda: garbage.adopt_unknown(sessions, store, grace_s=grace_s)),
        ]

    def run(self, stop: threading.Event) -> None:
        """Do each chore when it is due until `stop`."""
        while not stop.is_set():
            self.do_due()
            stop.wait(_LOOK_EVERY_S)

    def do_due(self) -> None:
        """Do what is due; what fails is told to the log, and done again before long."""
        for chore in self.chores:
            if time.monotonic() < chore.due:
                continue
            chore.due = time.monotonic() + min(chore.every_s, _AGAIN_AFTER_S)
            try:
                if not schema.is_current(self._engine):
                    _log.warning("another version has migrated the database; nothing is cleaned")
                    return
                ownership.check_owner(self._sessions, self._store)
                chore.do()
                chore.due = time.monotonic() + chore.every_s
            except Exception as error:  # whatever it is, the rest has to go on, today and tomorrow
                _log.warning("chore failed", extra={"chore": chore.name, "error": str(error)}, exc_info=True)


def _forget(sessions: Sessions, settings: Settings) -> None:
    with sessions.begin() as session:
        outbox.forget_published(session)
        checkpoints.drop_old(session, older_than_s=settings.checkpoint_ttl_s)
        webhooks.forget_ended(session)
        garbage.forget_idempotency_keys(session, older_than_s=settings.idempotency_ttl_s)
