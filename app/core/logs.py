"""Log one JSON object a line to stderr: what the caller gave, and what the work at hand is about."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pythonjsonlogger.core import LogData
from pythonjsonlogger.json import JsonFormatter

from app.core.urls import mask_url

Field = str | int | None
_fields: ContextVar[dict[str, Field]] = ContextVar("log_fields", default={})  # noqa: B039 - never changed
_SECRETS = (
    re.compile(r"(?P<kept>\bwhsec_)[A-Za-z0-9+/=_-]+"),
    re.compile(r"(?P<kept>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]+", re.IGNORECASE),
)


def configure_logging(service: str) -> None:
    """Send every log record of this process to stderr as JSON, marked with the name of the service."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter(
            "{levelname}{name}{message}",
            style="{",
            timestamp="at",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"service": service},
        )
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # Alembic tells every start that there is nothing to do; httpx tells every request at INFO.
    for name in ("alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def log_fields(**fields: Field) -> Iterator[None]:
    """Put fields, such as job_id, on every line that is logged inside the block, by whatever code."""
    token = _fields.set(_fields.get() | fields)
    try:
        yield
    finally:
        _fields.reset(token)


def add_log_fields(**fields: Field) -> None:
    """Put fields on the lines that follow, up to the end of the `log_fields` block or of the process."""
    _fields.set(_fields.get() | fields)


def mask_secrets(text: str) -> str:
    """Replace what must not be in a log: passwords in URLs, keys of webhooks, tokens of requests."""
    for pattern in _SECRETS:
        text = pattern.sub(r"\g<kept>***", text)
    return mask_url(text)


class _Formatter(JsonFormatter):
    """Adds the fields of the work at hand; what the caller gave wins over them."""

    def format(self, record: logging.LogRecord) -> str:
        # The last thing before the line is written, so that no caller and no library can forget it.
        return mask_secrets(super().format(record))

    def add_fields(self, log_data: LogData, record: logging.LogRecord, message_dict: LogData) -> None:
        super().add_fields(log_data, record, message_dict)
        for name, value in _fields.get().items():
            log_data.setdefault(name, value)
