"""Is the service able to work? Each part is asked, and each that cannot is named."""

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.core import schema
from app.core.errors import ErrorItem, SecateurError, Unavailable
from app.core.storage import BlobStore


def check_ready(engine: Engine, store: BlobStore) -> None:
    """Raise Unavailable, with one item a part, unless database, schema and store are ready."""
    items = [*_check_database(engine), *_check_store(store)]
    if items:
        raise Unavailable("; ".join(item.detail for item in items), errors=tuple(items))


def _check_database(engine: Engine) -> list[ErrorItem]:
    try:
        if schema.is_current(engine):
            return []
    except SQLAlchemyError as error:
        detail = f"the database cannot be reached ({type(error).__name__})"
        return [ErrorItem(pointer="/database", code="database_unreachable", detail=detail)]
    detail = "the database has another schema than this version; run `secateur migrate`"
    return [ErrorItem(pointer="/schema", code="schema_outdated", detail=detail)]


def _check_store(store: BlobStore) -> list[ErrorItem]:
    try:
        with store.stage() as staged:
            staged.write(b"\0")
    except (OSError, SecateurError) as error:
        detail = f"the store cannot be written ({type(error).__name__})"
        return [ErrorItem(pointer="/store", code="store_not_writable", detail=detail)]
    return []
