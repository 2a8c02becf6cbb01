"""Say what keeps a command from its work in one sentence, with an exit code, and never a stack trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import SecateurError
from app.core.schema import SchemaTooNew
from app.core.startup import CannotStart
from app.embedded import CannotServe
from app.moving import CannotMove

EXIT_CANNOT_START = 1
_SAID = (CannotStart, CannotServe, CannotMove, SchemaTooNew, SecateurError, SQLAlchemyError, OSError)


@contextmanager
def or_a_sentence() -> Iterator[None]:
    """Turn what goes wrong in the block into a sentence on stderr and exit code 1."""
    try:
        yield
    except _SAID as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        typer.echo(f"secateur: {first}", err=True)
        raise typer.Exit(EXIT_CANNOT_START) from error
