"""Log one JSON object a line to stderr, with the fields that the caller gave."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def configure_logging(service: str) -> None:
    """Send every log record of this process to stderr as JSON, marked with the name of the service."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{levelname}{name}{message}",
            style="{",
            timestamp="at",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"service": service},
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Alembic tells every start that there is nothing to do.
    logging.getLogger("alembic").setLevel(logging.WARNING)
