"""Run migrations on the connection that app.core.schema opened."""

from alembic import context

from app.core.tables import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    # SQLite cannot alter a table in place: batch mode copies it. The same scripts then serve Postgres.
    render_as_batch=True,
    compare_server_default=False,
)
with context.begin_transaction():
    context.run_migrations()
