"""Migrations: up, down, up on both databases, and equal to the tables in the code."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.core import schema
from app.core.db import make_engine
from app.core.tables import Base


def test_migrations_go_up_down_and_up_again(database_url):
    engine = make_engine(database_url)
    schema.upgrade(engine)
    assert schema.is_current(engine)
    schema.downgrade(engine)
    assert not schema.is_current(engine)
    schema.upgrade(engine)
    assert schema.is_current(engine)


def test_migrated_schema_equals_the_tables_in_the_code(database_url):
    engine = make_engine(database_url)
    schema.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
