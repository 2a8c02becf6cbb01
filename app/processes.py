"""The long-running commands of `secateur`: serve, api, relay, worker, migrate."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
import uvicorn
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from app.core import schema
from app.core.config import Settings, make_settings
from app.core.db import make_engine
from app.core.logs import configure_logging
from app.embedded import CannotServe, serve
from app.main import create_app
from app.relay import run_relay

EXIT_CANNOT_START = 1

commands = typer.Typer()


@commands.command("serve")
def serve_command(
    data_dir: Annotated[Path | None, typer.Option(help="Everything is written under this folder.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    configure_logging("serve")
    try:
        settings = make_settings(data_dir=data_dir, host=host, port=port)
        serve(settings, announce=lambda line: typer.echo(line))
    except (CannotServe, ValidationError, SQLAlchemyError, OSError) as error:
        _give_up(error)


@commands.command("api")
def api_command() -> None:
    """Serve HTTP; the schema must be there (`secateur migrate`)."""
    configure_logging("api")
    settings = Settings()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )


@commands.command("relay")
def relay_command() -> None:
    """Carry hints to the broker and sweep; one is enough, more do no harm."""
    configure_logging("relay")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run_relay(Settings(), stop)


@commands.command("worker")
def worker_command() -> None:
    """Run jobs (the same as `python -m worker`)."""
    os.execv(sys.executable, [sys.executable, "-m", "worker"])  # noqa: S606 - no shell, fixed words


@commands.command("migrate")
def migrate_command() -> None:
    """Bring the database to the schema of this version."""
    configure_logging("migrate")
    try:
        schema.upgrade(make_engine(Settings().database_url))
    except (SQLAlchemyError, ValidationError, OSError) as error:
        _give_up(error)


def _give_up(error: Exception) -> None:
    typer.echo(f"secateur: {str(error).splitlines()[0]}", err=True)
    raise typer.Exit(EXIT_CANNOT_START)
