"""The long-running commands of `secateur`: serve, api, relay, worker.

Each imports what it runs when it is called: a client's command would wait a second for the server's parts.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from app.core.logs import configure_logging

commands = typer.Typer()


@commands.command("serve")
def serve_command(
    data_dir: Annotated[Path | None, typer.Option(help="Everything is written under this folder.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    from app.core.startup import read_settings
    from app.embedded import serve
    from app.sentences import or_a_sentence

    configure_logging("serve")
    with or_a_sentence():
        settings = read_settings(data_dir=data_dir, host=host, port=port)
        serve(settings, announce=lambda line: typer.echo(line))


@commands.command("api")
def api_command() -> None:
    """Serve HTTP; the schema must be there (`secateur migrate`)."""
    from app.core.startup import check_parts, read_settings
    from app.sentences import or_a_sentence
    from app.server import run_api

    configure_logging("api")
    with or_a_sentence():
        settings = read_settings()
        check_parts(settings)
        run_api(settings)


@commands.command("relay")
def relay_command() -> None:
    """Carry hints to the broker and sweep; one is enough, more do no harm."""
    from app.core.startup import check_parts, read_settings
    from app.relay import run_relay
    from app.sentences import or_a_sentence

    configure_logging("relay")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with or_a_sentence():
        settings = read_settings()
        check_parts(settings)
        run_relay(settings, stop)


@commands.command("worker")
def worker_command() -> None:
    """Run jobs (the same as `python -m worker`)."""
    os.execv(sys.executable, [sys.executable, "-m", "worker"])  # noqa: S606 - no shell, fixed words
