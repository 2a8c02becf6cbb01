"""The relay: hints from the outbox to the broker, messages to webhooks, what others dropped swept up."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import SQLAlchemyError

from app.cleaning import Cleaner
from app.core import checks, job_returns, outbox
from app.core.config import Settings
from app.core.db import Sessions, make_engine, make_sessions
from app.core.errors import SecateurError
from app.core.pulse import beat
from app.core.queue import make_celery, publish
from app.core.storage import open_store
from app.webhook_sender import WebhookSender

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0


def run_relay(settings: Settings, stop: threading.Event) -> None:
    """Relay and sweep until `stop`; a database or broker that is away only makes it wait.

    Three loops, each in its own thread: a receiver that hangs, or a store with much to clean, delays no hint.
    """
    engine = make_engine(settings.database_url)
    sessions = make_sessions(engine)
    sending = threading.Thread(target=WebhookSender(sessions, settings).run, args=(stop,), name="webhooks")
    # Nobody waits for the cleaning at the end: what it has not come to is there the next time.
    cleaner = Cleaner(engine, open_store(settings), settings)
    cleaning = threading.Thread(target=cleaner.run, args=(stop,), name="cleaning", daemon=True)
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
        beat(settings.pulse_dir, "relay")
        if time.monotonic() >= next_sweep:
            # Whatever becomes of it: a sweep that fails every time must not starve the hints.
            next_sweep = time.monotonic() + settings.sweep_s
            _do(lambda: sweep(sessions, settings), stop)
        if not _do(lambda: outbox.publish_pending(sessions, send), stop):
            stop.wait(settings.relay_poll_s)


def _do(step: Callable[[], int], stop: threading.Event) -> int:
    """Return what a step has done; nothing, after a pause, where a part that it needs is away."""
    try:
        return step()
    except (SQLAlchemyError, BrokerError, OSError, SecateurError) as error:
        _log.warning("relay waits", extra={"error": str(error)})
        stop.wait(_PAUSE_S)
        return 0


def sweep(sessions: Sessions, settings: Settings) -> int:
    """Take back what silent workers held, and hint again at what nobody took; returns how many came back."""
    with sessions.begin() as session:
        taken_back = job_returns.sweep(session, hint_again_s=settings.hint_again_s)
        checks.sweep(session, hint_again_s=settings.hint_again_s)
    return taken_back
