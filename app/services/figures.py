"""What the database says about how the service is doing: counted and timed for the metrics.

Gauges are read as they are now. Durations are read once each, by an index, from where the last reading
stopped: the cost follows what happened since, not how much there is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from app.core.db import now_plus
from app.core.states import JobStatus, ModelStatus
from app.core.tables import (
    Artifact,
    Dataset,
    Job,
    JobAttempt,
    JobCheckpoint,
    JobEvent,
    Model,
    OutboxMessage,
    Webhook,
    WebhookDelivery,
)

# A row is seen when it is committed, a little after the time that it carries.
_SETTLE_S = 10.0
_CUDA_QUEUE, _CPU_QUEUE = "secateur.cuda", "secateur"
Moment = InstrumentedAttribute[datetime]


@dataclass(frozen=True)
class Waiting:
    """How many wait, and how long the one does that waits the longest."""

    count: int
    oldest_s: float


@dataclass(frozen=True)
class Figures:
    """The state of things at one moment."""

    jobs: Mapping[str, int]
    queues: Mapping[str, Waiting]
    outbox: Waiting
    deliveries: Mapping[str, int]
    deliveries_due: Waiting
    webhooks_disabled: int
    store_bytes: Mapping[str, int]


@dataclass(frozen=True)
class News:
    """What has happened since the last reading, and up to when that was."""

    until: datetime
    claim_s: Sequence[float] = ()
    stage_s: Sequence[tuple[str, float]] = ()
    attempts_ended: Mapping[str, int] = field(default_factory=dict)


def read_figures(session: Session) -> Figures:
    """Count what is there now."""
    return Figures(
        jobs=dict.fromkeys(JobStatus, 0) | _count_by(session, Job.status),
        queues=_read_queues(session),
        outbox=_read_waiting(session, OutboxMessage.created_at, OutboxMessage.published_at.is_(None)),
        deliveries=dict.fromkeys(("pending", "delivered", "failed"), 0)
        | _count_by(session, WebhookDelivery.state),
        deliveries_due=_read_waiting(
            session,
            WebhookDelivery.next_try_at,
            (WebhookDelivery.state == "pending")
            & (WebhookDelivery.next_try_at <= now_plus())
            & exists().where(Webhook.id == WebhookDelivery.webhook_id, Webhook.enabled),
        ),
        webhooks_disabled=session.scalar(
            select(func.count()).where(~Webhook.enabled, Webhook.job_id.is_(None))
        )
        or 0,
        store_bytes={
            "models": _sum(
                session,
                Model.size_bytes,
                Model.deleted_at.is_(None) & (Model.status != ModelStatus.REJECTED),
            ),
            "datasets": _sum(session, Dataset.size_bytes, Dataset.deleted_at.is_(None)),
            "artifacts": _sum(session, Artifact.size_bytes),
            "checkpoints": _sum(session, JobCheckpoint.size_bytes),
        },
    )


def read_news(session: Session, since: datetime | None, *, settle_s: float = _SETTLE_S) -> News:
    """Read what has happened since; nothing at the first time, when only the moment is taken."""
    until = session.scalar(select(now_plus(-settle_s)))
    assert until is not None
    if since is None or until <= since:
        return News(since or until)
    return News(
        until,
        claim_s=_read_claims(session, since, until),
        stage_s=_read_stages(session, since, until),
        attempts_ended=_count_by(
            session, JobAttempt.ended, (JobAttempt.ended_at > since) & (JobAttempt.ended_at <= until)
        ),
    )


def _read_queues(session: Session) -> dict[str, Waiting]:
    """The job's own wish decides: what wants CUDA waits for other workers than the rest."""
    is_queued = Job.status == JobStatus.QUEUED
    return {
        _CPU_QUEUE: _read_waiting(session, Job.created_at, is_queued & (Job.device != "cuda")),
        _CUDA_QUEUE: _read_waiting(session, Job.created_at, is_queued & (Job.device == "cuda")),
    }


def _read_waiting(session: Session, since: Moment, condition: ColumnElement[bool]) -> Waiting:
    count, oldest, now = session.execute(
        select(func.count(), func.min(since), now_plus()).where(condition)
    ).one()
    return Waiting(count, 0.0 if oldest is None else _seconds(oldest, now))


def _read_claims(session: Session, since: datetime, until: datetime) -> list[float]:
    """From the creation of a job to its first claim; later claims wait for other reasons too."""
    rows = session.execute(
        select(Job.created_at, JobAttempt.started_at)
        .join(Job, Job.id == JobAttempt.job_id)
        .where(JobAttempt.epoch == 1, JobAttempt.started_at > since, JobAttempt.started_at <= until)
    )
    return [_seconds(created, started) for created, started in rows]


def _read_stages(session: Session, since: datetime, until: datetime) -> list[tuple[str, float]]:
    """From a stage's start to its end in the same attempt; stages that were skipped took no time."""
    began = aliased(JobEvent)
    rows = session.execute(
        select(JobEvent.stage, func.max(began.at), JobEvent.at)
        .join(
            began,
            (began.job_id == JobEvent.job_id)
            & (began.seq < JobEvent.seq)
            & (began.stage == JobEvent.stage)
            & (began.type == "stage.started"),
        )
        .where(
            JobEvent.type == "stage.finished",
            JobEvent.at > since,
            JobEvent.at <= until,
            JobEvent.data["skipped"].as_boolean().is_not(True),
        )
        .group_by(JobEvent.job_id, JobEvent.seq, JobEvent.stage, JobEvent.at)
    )
    return [(str(stage), _seconds(started, ended)) for stage, started, ended in rows]


def _count_by(
    session: Session, column: InstrumentedAttribute[Any], condition: ColumnElement[bool] | None = None
) -> dict[str, int]:
    query = select(column, func.count()).group_by(column)
    rows = session.execute(query if condition is None else query.where(condition))
    return {str(name): int(count) for name, count in rows}


def _sum(
    session: Session, column: InstrumentedAttribute[int], condition: ColumnElement[bool] | None = None
) -> int:
    query = select(func.coalesce(func.sum(column), 0))
    return int(session.scalar(query if condition is None else query.where(condition)) or 0)


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
