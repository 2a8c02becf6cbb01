"""Carry hints from the outbox to the broker, and sweep up what others dropped."""

import logging
import threading
import time
from functools import partial

from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import SQLAlchemyError

from app.core import checks, garbage, jobs, outbox
from app.core.config import Settings
from app.core.db import Sessions, make_engine, make_sessions
from app.core.queue import make_celery, publish
from app.core.storage import LocalStore, make_store

_log = logging.getLogger(__name__)
_CLEAN_EVERY_S = 600.0


def run_relay(settings: Settings, stop: threading.Event) -> None:
    """Relay and sweep until `stop`; a database or broker that is away only makes it wait."""
    sessions = make_sessions(make_engine(settings.database_url))
    store = make_store(settings.store_url)
    send = partial(publish, make_celery(settings.broker_url))
    next_sweep = next_clean = time.monotonic()
    while not stop.is_set():
        try:
            now = time.monotonic()
            if now >= next_sweep:
                sweep(sessions, settings)
                next_sweep = now + settings.sweep_s
            if now >= next_clean:
                clean(sessions, store, settings)
                next_clean = now + _CLEAN_EVERY_S
            if not outbox.publish_pending(sessions, send):
                stop.wait(settings.relay_poll_s)
        except (SQLAlchemyError, BrokerError, OSError) as error:
            _log.warning("relay waits", extra={"error": str(error)})
            stop.wait(1.0)


def sweep(sessions: Sessions, settings: Settings) -> None:
    """Take back what silent workers held, and hint again at what nobody took."""
    with sessions.begin() as session:
        jobs.sweep(session, hint_again_s=settings.hint_again_s)
        checks.sweep(session, hint_again_s=settings.hint_again_s)


def clean(sessions: Sessions, store: LocalStore, settings: Settings) -> None:
    """Forget what is over: published hints, old idempotency keys, bytes that no row speaks of."""
    with sessions.begin() as session:
        outbox.forget_published(session)
        garbage.forget_idempotency_keys(session, older_than_s=settings.idempotency_ttl_s)
    garbage.collect(sessions, store)
