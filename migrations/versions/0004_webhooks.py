"""Webhooks and their deliveries"""

import sqlalchemy as sa
from alembic import op

from app.core.db import UtcDateTime, now_plus
from app.core.tables import Json

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STAGE_ENDED = sa.text("type = 'stage.finished'")


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", Json, nullable=False),
        sa.Column("description", sa.String(length=200), nullable=True),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("secret", sa.String(length=200), nullable=True),
        sa.Column("old_secret", sa.String(length=200), nullable=True),
        sa.Column("old_secret_until", UtcDateTime(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("failing_since", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=now_plus(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_created", "webhooks", ["created_at", "id"])
    op.create_index(op.f("ix_webhooks_job_id"), "webhooks", ["job_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("webhook_id", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try_at", UtcDateTime(), server_default=now_plus(), nullable=False),
        sa.Column("last_try_at", UtcDateTime(), nullable=True),
        sa.Column("last_status", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.String(length=200), nullable=True),
        sa.Column("delivered_at", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=now_plus(), nullable=False),
        sa.CheckConstraint(
            "(state = 'delivered') = (delivered_at IS NOT NULL)", name=op.f("ck_webhook_deliveries_delivered")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_state")
        ),
        sa.ForeignKeyConstraint(
            ["webhook_id"],
            ["webhooks.id"],
            name=op.f("fk_webhook_deliveries_webhook_id_webhooks"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.UniqueConstraint("webhook_id", "job_id", "seq", name=op.f("uq_webhook_deliveries_webhook_id")),
    )
    op.create_index("ix_webhook_deliveries_due", "webhook_deliveries", ["state", "next_try_at"])
    op.create_index("ix_webhook_deliveries_list", "webhook_deliveries", ["webhook_id", "created_at", "id"])
    op.create_index("ix_job_attempts_started", "job_attempts", ["started_at"])
    op.create_index("ix_job_attempts_ended", "job_attempts", ["ended_at"])
    op.create_index(
        "ix_job_events_stage_ended",
        "job_events",
        ["at"],
        sqlite_where=_STAGE_ENDED,
        postgresql_where=_STAGE_ENDED,
    )


def downgrade() -> None:
    op.drop_index("ix_job_events_stage_ended", "job_events")
    op.drop_index("ix_job_attempts_ended", "job_attempts")
    op.drop_index("ix_job_attempts_started", "job_attempts")
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
