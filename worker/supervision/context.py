"""What every task of a worker needs, made once when the worker starts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.core.blobs import Blobs, open_blobs
from app.core.config import Device, Settings
from app.core.db import Sessions, make_engine, make_sessions
from app.core.job_writes import name_owner
from worker.forks.client import Starter
from worker.supervision.draining import Draining
from worker.supervision.input_cache import InputCache
from worker.supervision.process import make_starter
from worker.supervision.schema_watch import SchemaWatch
from worker.supervision.slots import Slots, list_devices, make_slots
from worker.version import code_version


@dataclass(frozen=True)
class WorkerContext:
    """`slots` bounds the jobs that run at once; `draining` is set when the worker must give them back.

    `starters` start runners on a GPU by its index, and on the CPU by None.
    """

    settings: Settings
    sessions: Sessions
    store: Blobs
    inputs: InputCache
    owner: str
    reading_sessions: Sessions
    slots: Slots
    starters: Mapping[int | None, Starter]
    devices: tuple[Device, ...]
    version: str
    schema: SchemaWatch
    draining: Draining = field(default_factory=Draining)


def make_context(settings: Settings) -> WorkerContext:
    engine = make_engine(settings.database_url)
    sessions = make_sessions(engine)
    store = open_blobs(settings, sessions)
    return WorkerContext(
        settings=settings,
        sessions=sessions,
        reading_sessions=make_sessions(engine, reads_only=True),
        store=store,
        inputs=InputCache(store, settings.cache_dir, max_bytes=settings.worker_cache_bytes),
        owner=name_owner(os.getpid()),
        slots=make_slots(settings),
        starters=_make_starters(settings),
        devices=list_devices(settings),
        version=code_version(),
        schema=SchemaWatch(sessions),
    )


def _make_starters(settings: Settings) -> dict[int | None, Starter]:
    gpus = settings.worker_gpus if settings.worker_device == "cuda" else ()
    module, threads = settings.runner_module, settings.runner_threads
    return {gpu: make_starter(module, threads=threads, gpu=gpu) for gpu in (None, *gpus)}
