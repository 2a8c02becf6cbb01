"""The HTTP service: wires its parts together and holds no logic."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from app.api import datasets, events, jobs, models, results, service
from app.api.dependencies import Parts, refuse_unknown_parameters
from app.api.in_flight import KeysInFlight
from app.api.openapi import install_openapi
from app.api.problems import install_handlers
from app.api.request_id import RequestIdMiddleware
from app.core.catalog import read_catalog
from app.core.config import Settings
from app.core.db import make_engine, make_sessions
from app.core.storage import make_store

VERSION = "0.1.0"


def create_app(settings: Settings) -> FastAPI:
    """Make the app; database and store are opened when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts = _make_parts(settings)
        app.state.parts = parts
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
    for module in (models, datasets, jobs, events, results, service):
        app.include_router(module.router)
    install_handlers(app)
    install_openapi(app)
    app.add_middleware(RequestIdMiddleware)
    return app


def _make_parts(settings: Settings) -> Parts:
    engine = make_engine(settings.database_url)
    return Parts(
        settings=settings,
        engine=engine,
        sessions=make_sessions(engine),
        reading_sessions=make_sessions(engine, reads_only=True),
        store=make_store(settings.store_url),
        catalog=read_catalog(),
        keys_in_flight=KeysInFlight(),
    )
