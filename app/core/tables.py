"""The tables: one class each. The database is the truth; every time in it is the database's own."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, MetaData, String, Text
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
        Index("ix_jobs_status", "status", "hint_at"),
        Index("ix_jobs_lease", "lease_until"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(200))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), index=True)
    dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    spec: Mapped[JsonObject]
    resolved_spec: Mapped[JsonObject]
    spec_sha256: Mapped[str] = mapped_column(String(64))
    labels: Mapped[JsonObject]
    status: Mapped[str] = mapped_column(String(20), default="queued")
    stage: Mapped[str | None] = mapped_column(String(20))
    progress: Mapped[JsonObject]
    gates: Mapped[JsonObject]
    error: Mapped[JsonObject | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    attempt: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int]
    epoch: Mapped[int] = mapped_column(BigInteger, default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[datetime | None]
    hint_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    last_seq: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobEvent(Base):
    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(40))
    stage: Mapped[str | None] = mapped_column(String(20))
    data: Mapped[JsonObject]
    at: Mapped[datetime] = mapped_column(server_default=now_plus())


class JobAttempt(Base):
    __tablename__ = "job_attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    attempt: Mapped[int]
    worker: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    ended_at: Mapped[datetime | None]
    ended: Mapped[str | None] = mapped_column(String(20))
    detail: Mapped[str | None] = mapped_column(Text)


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


class OutboxMessage(Base):
    """A hint that must still reach the broker; written with the row it speaks of, in one transaction."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=True)
    task: Mapped[str] = mapped_column(String(100))
    ref: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(server_default=now_plus())
    published_at: Mapped[datetime | None] = mapped_column(index=True)


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
