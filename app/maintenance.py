"""The commands that keep an installation in order: migrate (here or to another place) and doctor.

Each imports what it runs when it is called, as those of `app.processes` do.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from app.core.logs import configure_logging

EXIT_FAULT = 1

commands = typer.Typer()
DataDir = Annotated[Path | None, typer.Option(help="The data folder of an embedded installation.")]
_err = Console(stderr=True)


@commands.command("migrate")
def migrate_command(
    to: Annotated[str | None, typer.Option(help="Database URL to move everything to.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Store URL to move the bytes to: s3:// or file://.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Bring the database to the schema of this version; with --to and --store, move everything there."""
    from app.core import schema
    from app.core.startup import check_database_answers, open_database, read_settings
    from app.moving import CannotMove, move, tables_of
    from app.sentences import or_a_sentence

    configure_logging("migrate")
    with or_a_sentence():
        source = read_settings(data_dir=data_dir)
        if to is None and store is None:
            check_database_answers(source)
            schema.upgrade(open_database(source))
            return
        if to is None or store is None:
            raise CannotMove("expected both --to DATABASE_URL and --store STORE_URL, found only one")
        target = read_settings(data_dir=data_dir, database_url=to, store_url=store)
        with _progress() as tick:
            counts = move(source, target, tick=tick)
        for line in tables_of(counts):
            typer.echo(line)
        typer.echo("everything is there with its ids and digests; the old installation is as it was")


@commands.command("doctor")
def doctor_command(
    data_dir: DataDir = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what can be.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Compare sizes, and read no bytes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Ask every part of an installation, and compare what rows speak of with what the store has."""
    from app.core.startup import read_settings
    from app.doctor import diagnose, show
    from app.sentences import or_a_sentence

    configure_logging("doctor")
    with or_a_sentence():
        settings = read_settings(data_dir=data_dir)
        with _progress() as tick:
            found = diagnose(
                settings, repair=repair, is_deep=not quick, tick=lambda done, all_: tick("blobs", done, all_)
            )
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=1))
    else:
        show(Console(), found)
    if not found.is_healthy:
        raise typer.Exit(EXIT_FAULT)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each kind of thing that is counted."""
    with Progress(console=_err, transient=not _err.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def tick(kind: str, done: int, total: int) -> None:
            if kind not in tasks:
                tasks[kind] = progress.add_task(kind, total=total)
            progress.update(tasks[kind], completed=done, total=total)

        yield tick
