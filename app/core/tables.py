"""The tables: one class each. The database is the truth; every time in it is the database's own."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import JSON, BigInteger, Integer

from app.core.db import UtcDateTime, now_plus

# None is SQL NULL here, never JSON null: constraints ask IS NULL.
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
# SQLite numbers rows by itself only where the key is exactly INTEGER.
BigKey = BigInteger().with_variant(Integer(), "sqlite")
JsonObject = dict[str, Any]  # Any: JSON that a pydantic model has checked before it came here


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {JsonObject: Json, datetime: UtcDateTime()}  # noqa: RUF012 - SQLAlchemy's own name


class Model(Base):
    __tablename__ = "models"
    __table_args__ = (
        CheckConstraint("status IN ('validating', 'ready', 'rejected')", name="status"),
        Index("ix_models_created", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    format: Mapped[str] = mapped_column(String(40))
    manifest: Mapped[JsonObject]
    files: Mapped[JsonObject]  # role -> {name, sha256, size_bytes}
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(String(20))
    rejection: Mapped[JsonObject | None]
    checks: Mapped[int] = mapped_column(default=0)  # deep checks begun, so that a crashing one ends
    hint_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    parameters: Mapped[int] = mapped_column(BigInteger)
    macs: Mapped[int | None] = mapped_column(BigInteger)
    input_signature: Mapped[JsonObject | None]
    inspection: Mapped[JsonObject | None]  # the whole CheckOutput: layers, forward time
    created_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    deleted_at: Mapped[datetime | None]  # the row stays for the history of its jobs; its bytes go


class Dataset(Base):
    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_created", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    task: Mapped[str] = mapped_column(String(40))
    format: Mapped[str] = mapped_column(String(40))
    manifest: Mapped[JsonObject]
    files: Mapped[JsonObject]  # split -> {name, sha256, size_bytes}
    splits: Mapped[JsonObject]  # split -> {n, shape, dtype, label_min, label_max, classes}
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    deleted_at: Mapped[datetime | None]


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "status IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')", name="status"
        ),
        CheckConstraint("(status = 'running') = (lease_until IS NOT NULL)", name="lease"),
        CheckConstraint(
            "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)", name="finished"
        ),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        Index("ix_jobs_created", "created_at", "id"),
        CheckConstraint("device IN ('auto', 'cpu', 'cuda')", name="device"),
        Index("ix_jobs_status", "status", "hint_at"),
        Index("ix_jobs_lease", "lease_until"),
        # Two ways into the line: to its highest priority, and to a tenant's oldest job of that priority.
        Index("ix_jobs_line", "status", "priority", "tenant", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(200))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    spec: Mapped[JsonObject]
    resolved_spec: Mapped[JsonObject]
    spec_sha256: Mapped[str] = mapped_column(String(64))
    labels: Mapped[JsonObject]
    tenant: Mapped[str] = mapped_column(String(40), default="default", server_default="default")
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    device: Mapped[str] = mapped_column(String(10), default="auto", server_default="auto")
    status: Mapped[str] = mapped_column(String(20), default="queued")
    stage: Mapped[str | None] = mapped_column(String(20))
    progress: Mapped[JsonObject]
    gates: Mapped[JsonObject]
    error: Mapped[JsonObject | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False, server_default=false())
    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int]
    setbacks: Mapped[int] = mapped_column(default=0, server_default="0")  # in a row, of what passes by itself
    retries: Mapped[int] = mapped_column(default=0, server_default="0")  # that its user asked for
    starts: Mapped[int] = mapped_column(default=0, server_default="0")  # of them, those from the start
    is_halved: Mapped[bool] = mapped_column(default=False, server_default=false())  # its batches
    retried_epoch: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    next_run_at: Mapped[datetime | None]  # not before; None is at once
    epoch: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[datetime | None]
    hint_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    last_seq: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


_STAGE_ENDED = text("type = 'stage.finished'")


class JobEvent(Base):
    __tablename__ = "job_events"
    # For the metrics, which read what is new: how long stages took.
    __table_args__ = (
        Index("ix_job_events_stage_ended", "at", sqlite_where=_STAGE_ENDED, postgresql_where=_STAGE_ENDED),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(40))
    stage: Mapped[str | None] = mapped_column(String(20))
    data: Mapped[JsonObject]
    at: Mapped[datetime] = mapped_column(server_default=now_plus())


class JobAttempt(Base):
    __tablename__ = "job_attempts"
    # For the metrics, which read what is new.
    __table_args__ = (
        Index("ix_job_attempts_started", "started_at"),
        Index("ix_job_attempts_ended", "ended_at"),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt: Mapped[int]
    worker: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    ended_at: Mapped[datetime | None]
    ended: Mapped[str | None] = mapped_column(String(20))
    class_: Mapped[str | None] = mapped_column("class", String(20))
    detail: Mapped[str | None] = mapped_column(Text)
    device: Mapped[str | None] = mapped_column(String(20))
    version: Mapped[str | None] = mapped_column(String(60))
    last_beat_at: Mapped[datetime | None]
    resumed_from: Mapped[JsonObject | None]  # {stage, step}: what an earlier attempt had done already
    warnings: Mapped[list[str]] = mapped_column(Json, default=list, server_default="[]")


class JobCheckpoint(Base):
    """What another worker needs to go on with a job: files of its work folder, their bytes in the store."""

    __tablename__ = "job_checkpoints"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    epoch: Mapped[int] = mapped_column(BigInteger)
    stage: Mapped[str] = mapped_column(String(20))
    step: Mapped[int | None]
    version: Mapped[str] = mapped_column(String(60))
    files: Mapped[JsonObject]  # path in the work folder -> {sha256, size}
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=now_plus())


class JobReport(Base):
    __tablename__ = "job_reports"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    report: Mapped[JsonObject]


class JobLayer(Base):
    __tablename__ = "job_layers"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    row: Mapped[JsonObject]


class JobMask(Base):
    """One pruned tensor's mask: packbits(bitorder="little") of the C-order mask, zlib-compressed."""

    __tablename__ = "job_masks"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text, index=True)
    shape: Mapped[list[int]] = mapped_column(Json)
    pattern: Mapped[str] = mapped_column(String(64))
    sparsity: Mapped[float]
    sha256: Mapped[str] = mapped_column(String(64))  # of the packed bits, before compression
    bits_zlib: Mapped[bytes] = mapped_column(LargeBinary)


class Artifact(Base):
    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    media_type: Mapped[str] = mapped_column(String(100))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    loads_in_clean_process: Mapped[bool]


class Blob(Base):
    """Bytes that the store holds, or is about to: see app.core.blobs for what the states mean."""

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint("state IN ('present', 'deleting', 'damaged', 'missing')", name="state"),
        Index("ix_blobs_touched", "touched_at"),
    )

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(20), default="present")
    touches: Mapped[int] = mapped_column(BigInteger, default=0)  # who counted to a number may change the row
    touched_at: Mapped[datetime] = mapped_column(server_default=now_plus())


class OutboxMessage(Base):
    """A hint that must still reach the broker; written with the row it speaks of, in one transaction."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(String(100))
    ref: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    published_at: Mapped[datetime | None] = mapped_column(index=True)


class Webhook(Base):
    """Where events are sent: every job's, or those of one job that its spec named a callback for."""

    __tablename__ = "webhooks"
    __table_args__ = (Index("ix_webhooks_created", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(Json)
    description: Mapped[str | None] = mapped_column(String(200))
    job_id: Mapped[str | None] = mapped_column(String(40), index=True)  # no key: written before its job
    secret: Mapped[str | None] = mapped_column(String(200))  # signing needs it as it is, so no hash
    old_secret: Mapped[str | None] = mapped_column(String(200))
    old_secret_until: Mapped[datetime | None]
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    failing_since: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=now_plus())


class WebhookDelivery(Base):
    """One message to one webhook; its id is the `webhook-id` of every try, its payload the bytes of each."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="state"),
        CheckConstraint("(state = 'delivered') = (delivered_at IS NOT NULL)", name="delivered"),
        UniqueConstraint("webhook_id", "job_id", "seq"),
        Index("ix_webhook_deliveries_due", "state", "next_try_at"),
        Index("ix_webhook_deliveries_list", "webhook_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[str | None] = mapped_column(String(40))
    seq: Mapped[int | None]
    type: Mapped[str] = mapped_column(String(40))
    payload: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(20), default="pending")
    tries: Mapped[int] = mapped_column(default=0)
    next_try_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    last_try_at: Mapped[datetime | None]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(String(200))
    delivered_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=now_plus())


class Installation(Base):
    """The one row that says which installation this database is: a store is written for one alone."""

    __tablename__ = "installations"
    __table_args__ = (CheckConstraint("number = 1", name="number"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    id: Mapped[str] = mapped_column(String(40))


class IdempotencyKey(Base):
    """The answer that a key got; it commits with the row that the request created."""

    __tablename__ = "idempotency_keys"

    path: Mapped[str] = mapped_column(String(200), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    response: Mapped[JsonObject]
    headers: Mapped[JsonObject]
    created_at: Mapped[datetime] = mapped_column(server_default=now_plus(), index=True)
