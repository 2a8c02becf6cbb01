"""The HTTP service: wires its parts together and holds no logic."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from app.api import datasets, events, job_actions, jobs, models, results, service, webhooks
from app.api.access_log import log_request
from app.api.allowed_hosts import AllowedHostsMiddleware
from app.api.dependencies import Parts, refuse_unknown_parameters
from app.api.in_flight import KeysInFlight
from app.api.metrics import Metrics
from app.api.observed import ObservedMiddleware
from app.api.openapi import install_openapi
from app.api.problems import install_handlers
from app.api.request_id import RequestIdMiddleware
from app.core import garbage
from app.core.blobs import open_blobs
from app.core.catalog import read_catalog
from app.core.config import Settings
from app.core.db import make_engine, make_sessions
from app.core.queue import make_celery

VERSION = "0.1.0"


def create_app(settings: Settings) -> FastAPI:
    """Make the app; database and store are opened when it starts."""
    metrics = Metrics(cache_s=settings.metrics_cache_s)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts = _make_parts(settings, metrics, app.state.closing)
        app.state.parts = parts
        # A machine with an API need not have a relay.
        garbage.drop_abandoned(parts.store.bytes, grace_s=settings.store_grace_s)
        yield
        parts.engine.dispose()

    app = FastAPI(
        title="Secateur",
        version=VERSION,
        summary="Pruning as a service",
        lifespan=lifespan,
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown_parameters)],
    )
    app.state.closing = threading.Event()
    for module in (models, datasets, jobs, job_actions, events, results, webhooks, service):
        app.include_router(module.router)
    install_handlers(app)
    install_openapi(app)
    # The last one added is the outermost: every line about a request has its id.
    app.add_middleware(AllowedHostsMiddleware, settings=settings)
    app.add_middleware(ObservedMiddleware, observers=(log_request, metrics.observe))
    app.add_middleware(RequestIdMiddleware)
    return app


def _make_parts(settings: Settings, metrics: Metrics, closing: threading.Event) -> Parts:
    engine = make_engine(settings.database_url)
    sessions = make_sessions(engine)
    return Parts(
        settings=settings,
        engine=engine,
        sessions=sessions,
        reading_sessions=make_sessions(engine, reads_only=True),
        store=open_blobs(settings, sessions),
        catalog=read_catalog(),
        keys_in_flight=KeysInFlight(),
        broker=make_celery(settings.broker_url),
        metrics=metrics,
        closing=closing,
    )
