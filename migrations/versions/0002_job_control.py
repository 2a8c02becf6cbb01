"""Pausing, retrying and fair queues"""

import sqlalchemy as sa
from alembic import op

from app.core.db import UtcDateTime, now_plus
from app.core.tables import BigKey, Json

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JOB_COLUMNS = (
    "tenant",
    "priority",
    "device",
    "pause_requested",
    "setbacks",
    "retries",
    "starts",
    "retried_epoch",
    "next_run_at",
)
_ATTEMPT_COLUMNS = ("class", "device", "version", "last_beat_at", "resumed_from", "warnings")


def upgrade() -> None:
    # Columns are added one by one: a copy of the table, which SQLite needs for more than that, would drop
    # rows that events and attempts refer to.
    known = sa.CheckConstraint("device IN ('auto', 'cpu', 'cuda')", name="ck_jobs_device")
    for column in (
        sa.Column("tenant", sa.String(40), server_default="default", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("device", sa.String(10), known, server_default="auto", nullable=False),
        sa.Column("pause_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("setbacks", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("starts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retried_epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("next_run_at", UtcDateTime(), nullable=True),
    ):
        op.add_column("jobs", column)
    op.create_index("ix_jobs_line", "jobs", ["status", "priority", "tenant", "created_at", "id"])
    _read_devices()

    for column in (
        sa.Column("class", sa.String(20), nullable=True),
        sa.Column("device", sa.String(20), nullable=True),
        sa.Column("version", sa.String(60), nullable=True),
        sa.Column("last_beat_at", UtcDateTime(), nullable=True),
        sa.Column("resumed_from", Json, nullable=True),
        sa.Column("warnings", Json, server_default="[]", nullable=False),
    ):
        op.add_column("job_attempts", column)

    op.create_table(
        "job_checkpoints",
        sa.Column("id", BigKey, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(40), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("stage", sa.String(20), nullable=False),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("version", sa.String(60), nullable=False),
        sa.Column("files", Json, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now_plus(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_checkpoints_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_checkpoints")),
    )
    op.create_index(op.f("ix_job_checkpoints_job_id"), "job_checkpoints", ["job_id"])


def downgrade() -> None:
    op.drop_table("job_checkpoints")
    for name in _ATTEMPT_COLUMNS:
        op.drop_column("job_attempts", name)
    op.drop_index("ix_jobs_line", "jobs")
    for name in _JOB_COLUMNS:
        op.drop_column("jobs", name)


def _read_devices() -> None:
    """Take the device of jobs that are there already from their specs."""
    jobs = sa.table("jobs", sa.column("id"), sa.column("device"), sa.column("resolved_spec", Json))
    device = jobs.c.resolved_spec["resources"]["device"].as_string()
    op.execute(jobs.update().where(device.in_(["cpu", "cuda"])).values(device=device))
