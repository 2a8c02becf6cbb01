"""Notice that a newer version has migrated the database: this worker then finishes, and takes no more."""

import logging
import threading
import time

from sqlalchemy import text

from app.core.db import Sessions

_ASK_EVERY_S = 5.0
_log = logging.getLogger(__name__)


class SchemaWatch:
    """Compares the revision of the database with the one at the start.

    A newer API may write specs that this worker cannot read: it would fail jobs that a newer worker can run.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._lock = threading.Lock()
        self._first = self._last = self._read()
        self._asked_at = time.monotonic()

    def is_outdated(self) -> bool:
        """Tell whether the schema has changed since this worker began; asks the database now and then."""
        with self._lock:
            if time.monotonic() - self._asked_at >= _ASK_EVERY_S or self._last != self._first:
                self._ask()
            return self._last != self._first

    def _ask(self) -> None:
        found = self._read()
        if found != self._last:
            fields = {"schema_at_start": self._first, "schema_found": found}
            if found == self._first:
                _log.info("the schema is back; taking jobs", extra=fields)
            else:
                _log.warning("another version has migrated the database; taking no more jobs", extra=fields)
        self._last, self._asked_at = found, time.monotonic()

    def _read(self) -> str | None:
        with self._sessions() as session:
            found = session.scalar(text("SELECT version_num FROM alembic_version"))
            return None if found is None else str(found)
