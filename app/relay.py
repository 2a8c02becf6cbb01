"""The relay: hints from the outbox to the broker, messages to webhooks, what others dropped swept up."""

import logging
import threading
import time
from functools import partial

from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import SQLAlchemyError

from app.core import checkpoints, checks, garbage, job_returns, outbox, webhooks
from app.core.config import Settings
from app.core.db import Sessions, make_engine, make_sessions
from app.core.errors import SecateurError
from app.core.pulse import beat
from app.core.queue import make_celery, publish
from app.core.storage import BlobStore, open_store
from app.webhook_sender import WebhookSender

_log = logging.getLogger(__name__)
_CLEAN_EVERY_S = 600.0
# A training writes a checkpoint a minute, and each replaces one.
_COLLECT_RELEASED_EVERY_S = 60.0
# A list of all that the store has: for bytes that lost their account, which is rare.
_ADOPT_EVERY_S = 86_400.0


def run_relay(settings: Settings, stop: threading.Event) -> None:
    """Relay and sweep until `stop`; a database or broker that is away only makes it wait.

    Three loops, each in its own thread: a receiver that hangs, or a store with much to clean, delays no hint.
    """
    sessions = make_sessions(make_engine(settings.database_url))
    sender = WebhookSender(sessions, settings)
    sending = threading.Thread(target=sender.run, args=(stop,), name="webhooks")
    # Nobody waits for the cleaning at the end: what it has not come to is there the next time.
    cleaning = threading.Thread(
        target=_keep_clean, args=(sessions, settings, stop), name="cleaning", daemon=True
    )
    for thread in (sending, cleaning):
        thread.start()
    try:
        _carry_hints(sessions, settings, stop)
    finally:
        stop.set()
        sending.join()


def _carry_hints(sessions: Sessions, settings: Settings, stop: threading.Event) -> None:
    send = partial(publish, make_celery(settings.broker_url))
    next_sweep = time.monotonic()
    while not stop.is_set():
        try:
            now = time.monotonic()
            beat(settings.pulse_dir, "relay")
            if now >= next_sweep:
                sweep(sessions, settings)
                next_sweep = now + settings.sweep_s
            if not outbox.publish_pending(sessions, send):
                stop.wait(settings.relay_poll_s)
        except (SQLAlchemyError, BrokerError, OSError, SecateurError) as error:
            _log.warning("relay waits", extra={"error": str(error)})
            stop.wait(1.0)


def _keep_clean(sessions: Sessions, settings: Settings, stop: threading.Event) -> None:
    store = open_store(settings)
    next_clean = next_adopt = time.monotonic()
    while not stop.is_set():
        try:
            garbage.collect_released(sessions, store)
            if time.monotonic() >= next_clean:
                next_clean = time.monotonic() + _CLEAN_EVERY_S
                clean(sessions, store, settings)
            if time.monotonic() >= next_adopt:
                garbage.adopt_unknown(sessions, store, grace_s=settings.store_grace_s)
                next_adopt = time.monotonic() + _ADOPT_EVERY_S
        except (SQLAlchemyError, OSError, SecateurError) as error:
            _log.warning("cleaning waits", extra={"error": str(error)})
        stop.wait(_COLLECT_RELEASED_EVERY_S)


def sweep(sessions: Sessions, settings: Settings) -> None:
    """Take back what silent workers held, and hint again at what nobody took."""
    with sessions.begin() as session:
        job_returns.sweep(session, hint_again_s=settings.hint_again_s)
        checks.sweep(session, hint_again_s=settings.hint_again_s)


def clean(sessions: Sessions, store: BlobStore, settings: Settings) -> None:
    """Forget what is over: published hints, old idempotency keys, bytes that no row speaks of."""
    with sessions.begin() as session:
        outbox.forget_published(session)
        checkpoints.drop_old(session, older_than_s=settings.checkpoint_ttl_s)
        webhooks.forget_ended(session)
        garbage.forget_idempotency_keys(session, older_than_s=settings.idempotency_ttl_s)
    garbage.collect(sessions, store, grace_s=settings.store_grace_s)
