"""Pages of a list, newest first: a cursor remembers the last row, so that new rows do not shift a page."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core.errors import ErrorItem, InvalidParameter
from app.core.tables import Dataset, Job, Model, Webhook, WebhookDelivery

R = TypeVar("R", Model, Dataset, Job, Webhook, WebhookDelivery)
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows of a list, and the cursor of the next ones, None at the end."""

    rows: Sequence[T]
    next_cursor: str | None

    def map(self, change: Callable[[T], U]) -> "Page[U]":
        return Page([change(row) for row in self.rows], self.next_cursor)


def newest_first(
    session: Session, query: Select[R], table: type[R], *, limit: int, cursor: str | None
) -> Page[R]:
    """Return the page of `query` after `cursor`; raises InvalidParameter for a cursor that is not ours."""
    key = tuple_(table.created_at, table.id)
    if cursor is not None:
        query = query.where(key < tuple_(*_read_time_cursor(cursor)))
    rows = session.scalars(query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)).all()
    if len(rows) <= limit:
        return Page(rows, None)
    last = rows[limit - 1]
    return Page(rows[:limit], _write([last.created_at.isoformat(), last.id]))


def highest_first(
    session: Session,
    query: Select[U],
    number: InstrumentedAttribute[int],
    read_number: Callable[[U], int],
    *,
    limit: int,
    cursor: str | None,
) -> Page[U]:
    """Return the page of `query` after `cursor`, of rows whose number counts up and never changes."""
    if cursor is not None:
        query = query.where(number < _read_place_cursor(cursor))
    rows = session.scalars(query.order_by(number.desc()).limit(limit + 1)).all()
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], _write([read_number(rows[limit - 1])]))


def in_order(rows: Sequence[T], *, limit: int | None, cursor: str | None) -> Page[T]:
    """Return a page of a short list that never changes, such as a model's layers; all of it by default."""
    start = 0 if cursor is None else _read_place_cursor(cursor)
    end = len(rows) if limit is None else start + limit
    return Page(rows[start:end], _write([end]) if end < len(rows) else None)


def refuse_cursor() -> InvalidParameter:
    """Make the error of a cursor that this service did not hand out."""
    detail = "expected a cursor as found in next_cursor"
    return InvalidParameter(
        detail, errors=(ErrorItem(pointer="/query/cursor", code="bad_cursor", detail=detail),)
    )


def _read_time_cursor(cursor: str) -> tuple[datetime, str]:
    match _read(cursor):
        case [str(moment), str(row_id)] if row_id.isascii() and row_id.isprintable():
            try:
                found = datetime.fromisoformat(moment)
            except ValueError as error:
                raise refuse_cursor() from error
            if found.tzinfo is None:
                raise refuse_cursor()
            return found, row_id
    raise refuse_cursor()


def _read_place_cursor(cursor: str) -> int:
    match _read(cursor):
        case [int(place)] if 0 <= place < 2**31:
            return place
    raise refuse_cursor()


def _write(parts: list[str | int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _read(cursor: str) -> object:
    try:
        return json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise refuse_cursor() from error
