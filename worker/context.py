"""What every task of a worker needs, made once when the worker starts."""

import os
import socket
import threading
from dataclasses import dataclass, field

from app.core.config import Settings
from app.core.db import Sessions, make_engine, make_sessions
from app.core.storage import LocalStore, make_store


@dataclass(frozen=True)
class WorkerContext:
    """`slots` bounds the jobs that run at once; `draining` is set when the worker must give them back."""

    settings: Settings
    sessions: Sessions
    store: LocalStore
    owner: str
    slots: threading.Semaphore
    draining: threading.Event = field(default_factory=threading.Event)


def make_context(settings: Settings) -> WorkerContext:
    return WorkerContext(
        settings=settings,
        sessions=make_sessions(make_engine(settings.database_url)),
        store=make_store(settings.store_url),
        owner=f"{socket.gethostname()}:{os.getpid()}",
        slots=threading.Semaphore(settings.worker_slots),
    )
