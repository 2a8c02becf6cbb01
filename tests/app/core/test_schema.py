"""Migrations: up, down, up on both databases, and equal to the tables in the code."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

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


def test_jobs_of_the_first_version_live_through_the_later_ones(database_url):
    engine = make_engine(database_url)
    schema.upgrade(engine, "0001")
    with engine.begin() as connection:
        for statement in _FIRST_ROWS:
            connection.execute(text(statement))
    schema.upgrade(engine)
    with engine.connect() as connection:
        [job] = connection.execute(text("SELECT device, priority, tenant, next_run_at FROM jobs")).all()
        [attempt] = connection.execute(text("SELECT epoch, warnings FROM job_attempts")).all()
    assert tuple(job) == ("cpu", 0, "default", None)
    assert attempt.epoch == 1
    schema.downgrade(engine, "0001")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM job_attempts")).scalar() == 1


_FIRST_ROWS = (
    "INSERT INTO models (id, name, format, manifest, files, sha256, size_bytes, status, checks, parameters) "
    "VALUES ('mdl_1', 'net', 'safetensors', '{}', '{}', '0', 1, 'ready', 1, 1)",
    "INSERT INTO jobs (id, model_id, spec, resolved_spec, spec_sha256, labels, status, progress, gates, "
    "cancel_requested, attempt, max_attempts, epoch, last_seq) VALUES ('job_1', 'mdl_1', '{}', "
    """'{"resources": {"device": "cpu"}}', '0', '{}', 'queued', '{}', '{}', false, 1, 3, 1, 0)""",
    "INSERT INTO job_attempts (job_id, epoch, attempt, worker) VALUES ('job_1', 1, 1, 'w')",
)
