"""Ask each part that the service stands on whether it answers; a fault says what was expected and found."""

from dataclasses import dataclass
from typing import Literal

from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from app.core import ownership, schema
from app.core.db import make_sessions
from app.core.errors import SecateurError, StorageFull
from app.core.queue import ping
from app.core.schema import SchemaAge
from app.core.storage import BlobStore
from app.core.urls import mask_url

Part = Literal["database", "schema", "broker", "store"]
STORE_FULL = "store_full"


@dataclass(frozen=True)
class Fault:
    """What is wrong with one part; `found` may name machines and is for logs, not for strangers.

    `is_wrong` when waiting cannot help.
    """

    part: Part
    code: str
    detail: str
    found: str = ""
    is_wrong: bool = False


def probe_database(engine: Engine) -> list[Fault]:
    """Find what is wrong with the database and, where it answers, with its schema."""
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return probe_schema(engine)
    except SQLAlchemyError as error:
        return [Fault("database", "database_unreachable", "the database does not answer", say(error))]


def probe_schema(engine: Engine) -> list[Fault]:
    """Compare the schema of the database with that of this code. Raises SQLAlchemyError."""
    found = schema.find(engine)
    if found.age is SchemaAge.CURRENT:
        return []
    sides = f"expected {found.expected}, found {found.found or 'none'}"
    if found.age is SchemaAge.OLDER:
        detail = f"the schema of the database is older than this version ({sides}): run `secateur migrate`"
        return [Fault("schema", "schema_older", detail, is_wrong=True)]
    detail = f"the schema of the database is newer than this version ({sides}): run the version it is of"
    return [Fault("schema", "schema_newer", detail, is_wrong=True)]


def probe_broker(celery: Celery) -> list[Fault]:
    try:
        ping(celery)
    except (KombuError, RedisError, OSError) as error:
        return [Fault("broker", "broker_unreachable", "the broker does not answer", say(error))]
    return []


def probe_store(store: BlobStore, *, write: bool) -> list[Fault]:
    """Find what is wrong with the store; `write` also where reading goes well."""
    try:
        store.check(write=write)
    except StorageFull as error:
        return [Fault("store", STORE_FULL, "the store has no room", say(error))]
    except (OSError, SecateurError) as error:
        return [Fault("store", "store_not_writable", "the store cannot be written", say(error))]
    return []


def probe_owner(engine: Engine, store: BlobStore) -> list[Fault]:
    """Find out whether the store is another installation's; one of nobody is ours from now on."""
    try:
        ownership.check_owner(make_sessions(engine), store)
    except ownership.ForeignStore as error:
        return [Fault("store", error.code, error.detail, is_wrong=True)]
    except SQLAlchemyError as error:
        detail = f"the database cannot be written, and has no id yet to mark a store with ({say(error)})"
        return [Fault("database", "database_not_writable", detail, is_wrong=True)]
    except (OSError, SecateurError) as error:
        return [Fault("store", "store_not_writable", "the store cannot be written", say(error))]
    return []


def say(error: BaseException) -> str:
    """Return the first line of an error without passwords; its kind in front, unless the sentence is ours."""
    if isinstance(error, SecateurError | ValueError):
        return mask_url(next(iter(str(error).splitlines()), type(error).__name__))
    cause = getattr(error, "orig", None) or error
    first = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    name = type(cause).__name__
    return mask_url(f"{name}: {first}" if first else name)
