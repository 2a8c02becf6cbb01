"""`secateur doctor`: is every part there, and do database and store speak of the same bytes?"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kombu.exceptions import OperationalError as BrokerError
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.core import ownership, schema
from app.core.blobs import open_blobs
from app.core.config import Settings
from app.core.db import make_sessions
from app.core.errors import SecateurError
from app.core.probes import say
from app.core.reconcile import Finding, Reconciler, tell_ages
from app.core.startup import CannotStart, open_broker, open_database, open_store
from app.core.urls import mask_url

_BROKER_TIMEOUT_S = 5.0
_SHOWN = 100


@dataclass(frozen=True)
class Check:
    """One part of the service: what was expected of it and what was found."""

    name: str
    is_ok: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """`findings` is None when database or store could not be asked."""

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...] | None
    advice: tuple[str, ...] = field(default=())

    @property
    def is_healthy(self) -> bool:
        faults = [f for f in self.findings or () if f.is_fault and not f.is_repaired]
        return self.findings is not None and all(check.is_ok for check in self.checks) and not faults

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        return asdict(self) | {"is_healthy": self.is_healthy}


def diagnose(
    settings: Settings, *, repair: bool, is_deep: bool, tick: Callable[[int, int], None]
) -> Diagnosis:
    """Ask every part, then compare rows and bytes; with `repair`, put right what can be."""
    engine, database = _open_database(settings)
    try:
        checks = (
            database,
            _check_store(settings, engine if database.is_ok else None),
            _check_broker(settings),
            _check_disk(settings),
        )
        if engine is None or not (checks[0].is_ok and checks[1].is_ok):
            return Diagnosis(checks, None)
        sessions = make_sessions(engine)
        reconciler = Reconciler(
            sessions, open_blobs(settings, sessions), grace_s=settings.store_grace_s, repair=repair
        )
        findings = reconciler.run(is_deep=is_deep, tick=tick)
        return Diagnosis(checks, tuple(findings), tuple(tell_ages(findings)))
    finally:
        if engine is not None:
            engine.dispose()


def show(console: Console, diagnosis: Diagnosis) -> None:
    """Print the parts, then what does not fit, as tables."""
    parts = Table("", "part", "found", box=None, pad_edge=False)
    for check in diagnosis.checks:
        parts.add_row("ok" if check.is_ok else "FAULT", check.name, check.detail)
    console.print(parts, highlight=False, markup=False)
    if diagnosis.findings is None:
        console.print("rows and bytes were not compared: see above", highlight=False)
        return
    if not diagnosis.findings:
        console.print("every row has its bytes, and all bytes have their row", highlight=False)
        return
    rows = Table("", "what", "which", "detail", box=None, pad_edge=False)
    for finding in diagnosis.findings[:_SHOWN]:
        rows.add_row(_mark(finding), finding.kind, finding.subject[:12], finding.detail)
    console.print(rows, highlight=False, markup=False)
    if len(diagnosis.findings) > _SHOWN:
        console.print(f"… and {len(diagnosis.findings) - _SHOWN} more; --json has all", highlight=False)
    for sentence in diagnosis.advice:
        console.print(sentence, highlight=False, markup=False)


def _mark(finding: Finding) -> str:
    if finding.is_repaired:
        return "repaired"
    return "FAULT" if finding.is_fault else "note"


def _open_database(settings: Settings) -> tuple[Engine | None, Check]:
    """Return the engine, None where there is no database to ask: opening one of SQLite would make it."""
    shown = mask_url(settings.database_url)
    scheme, _, path = settings.database_url.partition(":///")
    if scheme == "sqlite" and not Path(path).is_file():
        detail = f"expected a database at {shown}, found none; set --data-dir or SECATEUR_DATABASE_URL"
        return None, Check("database", is_ok=False, detail=detail)
    try:
        engine = open_database(settings)
    except CannotStart as error:
        return None, Check("database", is_ok=False, detail=str(error))
    return engine, _check_database(engine, shown)


def _check_database(engine: Engine, shown: str) -> Check:
    try:
        found = schema.find(engine)
    except SQLAlchemyError as error:
        return Check("database", is_ok=False, detail=f"{shown}: {say(error)}")
    if found.age is schema.SchemaAge.CURRENT:
        return Check("database", is_ok=True, detail=f"{shown}, schema {found.found}")
    sides = f"expected the schema {found.expected}, found {found.found}"
    advice = "run `secateur migrate`, or the version of Secateur that made it"
    return Check("database", is_ok=False, detail=f"{shown}: {sides}; {advice}")


def _check_store(settings: Settings, engine: Engine | None) -> Check:
    """Try the store and, where there is a database to ask, whether it is that one's."""
    try:
        store = open_store(settings)
        store.check(write=True)
        if engine is not None:
            ownership.check_owner(make_sessions(engine), store, may_mark=False)
    except CannotStart as error:
        return Check("store", is_ok=False, detail=str(error))
    except (SecateurError, SQLAlchemyError, OSError) as error:
        return Check("store", is_ok=False, detail=say(error))
    return Check("store", is_ok=True, detail=store.location)


def _check_broker(settings: Settings) -> Check:
    shown = mask_url(settings.broker_url)
    try:
        with open_broker(settings).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_BROKER_TIMEOUT_S)
    except CannotStart as error:
        return Check("broker", is_ok=False, detail=str(error))
    except (BrokerError, OSError, ValueError) as error:
        detail = f"expected a broker at {shown}, found: {say(error)}; set SECATEUR_BROKER_URL"
        return Check("broker", is_ok=False, detail=detail)
    return Check("broker", is_ok=True, detail=shown)


def _check_disk(settings: Settings) -> Check:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free:,} bytes free under {settings.data_dir}"
    if free >= settings.max_upload_bytes:
        return Check("disk", is_ok=True, detail=detail)
    wanted = f"expected room for the largest upload, {settings.max_upload_bytes:,} bytes; found {detail}"
    return Check("disk", is_ok=False, detail=wanted)
