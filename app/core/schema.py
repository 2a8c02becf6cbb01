"""Bring the database to the schema of this code, with the Alembic scripts in migrations/."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

_SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"
# Any number will do, as long as every version takes the same one.
_MIGRATION_LOCK = 0x5EC4_7E04


class SchemaAge(StrEnum):
    CURRENT = "current"
    OLDER = "older"
    NEWER = "newer"


@dataclass(frozen=True)
class FoundSchema:
    """The revision that a database has (None: no table of ours yet) and the one that this code expects."""

    found: str | None
    expected: str
    age: SchemaAge


class SchemaTooNew(Exception):
    """The database has a revision that this code does not know: a newer version has migrated it."""


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Apply every migration up to `revision` in one transaction; several at once wait for each other.

    Raises SchemaTooNew, and changes nothing, when a newer version was here.
    """
    if find(engine).age is SchemaAge.NEWER:
        raise SchemaTooNew(_too_new(find(engine)))
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        command.upgrade(_config(connection=connection), revision)


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take migrations back down to `revision`."""
    with engine.begin() as connection:
        command.downgrade(_config(connection=connection), revision)


def find(engine: Engine) -> FoundSchema:
    """Tell which schema the database has, and whether that is older or newer than this code's."""
    scripts = ScriptDirectory.from_config(_config())
    expected = scripts.get_current_head()
    assert expected is not None
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found == expected:
        age = SchemaAge.CURRENT
    else:
        known = {script.revision for script in scripts.walk_revisions()}
        age = SchemaAge.OLDER if found is None or found in known else SchemaAge.NEWER
    return FoundSchema(found, expected, age)


def is_current(engine: Engine) -> bool:
    """Tell whether the database has exactly the schema that this code expects."""
    return find(engine).age is SchemaAge.CURRENT


def _too_new(found: FoundSchema) -> str:
    return (
        f"the schema of the database is newer than this version (expected {found.expected} or older, "
        f"found {found.found}): run the version that it is of; there is no way back but a backup"
    )


def _config(**attributes: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes.update(attributes)
    return config
