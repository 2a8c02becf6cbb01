"""Refuse to start in a sentence: a wrong setting, a part that is missing, a schema of another time."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from celery import Celery
from pydantic import AliasChoices, ValidationError
from sqlalchemy import Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from app.core import storage
from app.core.addresses import is_loopback
from app.core.config import Settings, make_settings
from app.core.db import make_engine
from app.core.probes import STORE_FULL, Fault, probe_broker, probe_database, probe_owner, probe_store, say
from app.core.queue import BROKER_SCHEMES, make_celery
from app.core.storage import BlobStore
from app.core.urls import mask_url

_log = logging.getLogger(__name__)
_ASK_AGAIN_S = 0.25
_PREFIX = "SECATEUR_"
# What clients and benchmarks read from the same environment.
_OF_CLIENTS = ("SECATEUR_URL", "SECATEUR_API_KEY", "SECATEUR_BENCH_DATA", "SECATEUR_FASHION_MNIST")
_DATABASES = ("sqlite", "postgresql")


class CannotStart(Exception):
    """The process cannot start; the message is one sentence that says why and what to do."""


def read_settings(**given: object) -> Settings:
    """Read the settings; raises CannotStart that names each one that cannot be. Warns of unknown ones."""
    if unknown := unknown_settings(os.environ):
        _log.warning("settings that do not exist are ignored", extra={"names": unknown})
    try:
        return make_settings(**given)
    except ValidationError as error:
        raise CannotStart("; ".join(_say_setting(dict(fault)) for fault in error.errors())) from error


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """List the variables that look like settings and are none: a typo is otherwise found by nobody."""
    known = set(_OF_CLIENTS)
    for name, field in Settings.model_fields.items():
        known.add(f"{_PREFIX}{name.upper()}")
        if isinstance(field.validation_alias, AliasChoices):
            known.update(str(one).upper() for one in field.validation_alias.choices)
    return sorted(name for name in environment if name.startswith(_PREFIX) and name not in known)


def refuse_open_network(settings: Settings) -> None:
    """There are no keys yet: whoever reaches the port can use the service. Raises CannotStart."""
    try:
        ip_address(settings.host.replace("localhost", "127.0.0.1"))
    except ValueError as error:
        raise CannotStart(
            f"SECATEUR_HOST: expected an address such as 127.0.0.1, found {settings.host!r}"
        ) from error
    if not is_loopback(settings.host) and not settings.allow_anonymous_network:
        raise CannotStart(
            f"SECATEUR_HOST: {settings.host} can be reached by others, and this version has no keys: "
            "serve on 127.0.0.1, or set SECATEUR_ALLOW_ANONYMOUS_NETWORK=true behind a proxy with keys"
        )


def check_parts(settings: Settings) -> None:
    """Ask database, schema, store and broker once each, again for `start_wait_s`; raises CannotStart."""
    engine = open_database(settings)
    store = open_store(settings)
    celery = open_broker(settings)
    try:
        _wait(settings, "SECATEUR_DATABASE_URL", settings.database_url, lambda: probe_database(engine))
        _wait(settings, "SECATEUR_STORE_URL", settings.store_url, lambda: _probe_store(store, engine))
        _wait(settings, "SECATEUR_BROKER_URL", settings.broker_url, lambda: probe_broker(celery))
    finally:
        engine.dispose()


def _probe_store(store: BlobStore, engine: Engine) -> list[Fault]:
    """Find what keeps a process from starting: a store that is only full still serves what it has."""
    faults = probe_store(store, write=True)
    full = [fault for fault in faults if fault.code == STORE_FULL]
    for fault in full:
        _log.warning("store is full", extra={"store": store.location, "error": fault.found})
    return [fault for fault in faults if fault not in full] or probe_owner(engine, store)


def check_database_answers(settings: Settings) -> None:
    """Ask the database alone, whatever its schema; raises CannotStart."""
    engine = open_database(settings)

    def probe() -> list[Fault]:
        return [fault for fault in probe_database(engine) if fault.part == "database"]

    try:
        _wait(settings, "SECATEUR_DATABASE_URL", settings.database_url, probe)
    finally:
        engine.dispose()


def open_database(settings: Settings, *, said_by: str = "SECATEUR_DATABASE_URL") -> Engine:
    """Make the engine; raises CannotStart for a URL that no database can have."""
    url = settings.database_url
    try:
        backend = make_url(url).get_backend_name()
        if backend in _DATABASES:
            return make_engine(url)
    except (SQLAlchemyError, ImportError, ValueError, OSError) as error:
        raise CannotStart(
            f"{said_by}: expected sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME, "
            f"found {mask_url(url)!r} ({say(error)})"
        ) from error
    raise CannotStart(
        f"{said_by}: expected a database of the kind {' or '.join(_DATABASES)}, found {mask_url(url)!r}"
    )


def open_store(settings: Settings, *, said_by: str = "SECATEUR_STORE_URL") -> BlobStore:
    """Open the store; raises CannotStart for a URL that no store can have."""
    try:
        return storage.open_store(settings)
    except ValueError as error:
        raise CannotStart(f"{said_by}: {say(error)}") from error
    except OSError as error:
        raise CannotStart(
            f"{said_by}: expected a folder that can be written, found "
            f"{mask_url(settings.store_url)!r} ({say(error)}); make it, or give it to this user"
        ) from error


def open_broker(settings: Settings) -> Celery:
    """Make the Celery app; raises CannotStart for a URL that no broker can have."""
    url = settings.broker_url
    scheme, colon, _ = url.partition("://")
    if not colon or scheme not in BROKER_SCHEMES:
        kinds = ", ".join(f"{one}://" for one in BROKER_SCHEMES)
        raise CannotStart(f"SECATEUR_BROKER_URL: expected one of {kinds}, found {mask_url(url)!r}")
    if not _is_split_where_meant(url):
        raise CannotStart(
            f"SECATEUR_BROKER_URL: expected SCHEME://USER:PASSWORD@HOST:PORT/NUMBER, found {mask_url(url)!r} "
            "(in a password / is written as %2F, ? as %3F, # as %23)"
        )
    try:
        return make_celery(url)
    except (OSError, ValueError) as error:
        raise CannotStart(f"SECATEUR_BROKER_URL: {mask_url(url)!r} cannot be used ({say(error)})") from error


def _is_split_where_meant(url: str) -> bool:
    """Tell whether the port is a number and nothing of a password stands behind the host."""
    parts = urlsplit(url)
    try:
        _ = parts.port
    except ValueError:
        return False
    return "@" not in parts.path + parts.query + parts.fragment


def _wait(settings: Settings, name: str, url: str, probe: Callable[[], list[Fault]]) -> None:
    deadline = time.monotonic() + settings.start_wait_s
    while True:
        faults = probe()
        if not faults:
            return
        if faults[0].is_wrong:
            raise CannotStart(faults[0].detail)
        if time.monotonic() >= deadline:
            raise CannotStart(
                f"{faults[0].detail} ({faults[0].found}); {name} is {mask_url(url)!r}: "
                "start what it names, or correct it"
            )
        time.sleep(_ASK_AGAIN_S)


def _say_setting(fault: dict[str, object]) -> str:
    """Name a setting as its user wrote it; what a secret one holds is not repeated."""
    where = fault["loc"]
    name = _setting(str(where[0])) if isinstance(where, tuple) and where else "the settings"
    message = str(fault["msg"]).removeprefix("Value error, ")
    found = fault.get("input")
    if not isinstance(found, str | int | float) or "secret" in name.lower():
        return f"{name}: {message}"
    return f"{name}: {message[:1].lower()}{message[1:]}, found {mask_url(str(found))!r}"


def _setting(name: str) -> str:
    """Return a setting's name in the environment; some have one of their own, such as AWS_REGION."""
    found = name.upper()
    return found if found.startswith(("SECATEUR_", "AWS_")) else f"SECATEUR_{found}"
