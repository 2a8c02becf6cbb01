"""What a runner is told to do: read from the database, with the inputs fetched onto this machine."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core import checkpoints
from app.core.config import Device
from app.core.db import now_plus
from app.core.spec import JobSpec
from app.core.states import AttemptEnd
from app.core.tables import Dataset, Job, JobAttempt, JobCheckpoint, Model
from worker.protocol import RunnerInput
from worker.supervision.inputs import Place, dataset_input, describe_unknown, model_input
from worker.supervision.slots import Slot


@dataclass(frozen=True)
class Given:
    """What the database says of a job that is about to run.

    `checkpoints` are the newest first; `left_s` of its timeout_s is what earlier attempts have left.
    """

    job: Job
    spec: JobSpec
    model: Model
    dataset: Dataset | None
    checkpoints: Sequence[JobCheckpoint]
    left_s: float


def read_given(session: Session, job_id: str) -> Given:
    """Read all that an attempt starts from; raises SpecUnknown."""
    job = session.get_one(Job, job_id)
    spec = _read_spec(job)
    return Given(
        job=job,
        spec=spec,
        model=session.get_one(Model, job.model_id),
        dataset=session.get(Dataset, job.dataset_id) if job.dataset_id else None,
        checkpoints=checkpoints.list_newest_first(session, job_id),
        left_s=spec.resources.timeout_s - _sum_up_attempts(session, job),
    )


def _read_spec(job: Job) -> JobSpec:
    try:
        return JobSpec.model_validate_json(json.dumps(job.resolved_spec))
    except ValidationError as error:
        raise describe_unknown(error, "the job's spec") from error


def make_input(given: Given, place: Place, *, slot: Slot, threads: int) -> RunnerInput:
    """Make the runner's input; `place` fetches gigabytes, so that no transaction may be open.

    Raises SpecUnknown for a manifest of another version.
    """
    return RunnerInput(
        job_id=given.job.id,
        attempt=given.job.attempt,
        spec_sha256=given.job.spec_sha256,
        spec=given.spec,
        model=model_input(given.model, place),
        dataset=dataset_input(given.dataset, place) if given.dataset else None,
        threads=threads,
        device=_choose_device(given.spec, slot),
        is_halved=given.job.is_halved,
    )


def _choose_device(spec: JobSpec, slot: Slot) -> Device:
    if spec.resources.device == "auto":
        return "cpu" if slot.gpu is None else "cuda"
    return spec.resources.device


def _sum_up_attempts(session: Session, job: Job) -> float:
    """Return how long the job has run, over all attempts since its user last asked for it.

    An attempt whose worker fell silent counts to its last beat, and the running one to now.
    """
    now = session.scalar(select(now_plus()))
    attempts = session.scalars(
        select(JobAttempt).where(JobAttempt.job_id == job.id, JobAttempt.epoch > job.retried_epoch)
    )
    return sum((_end_of(one, now) - one.started_at).total_seconds() for one in attempts)


def _end_of(attempt: JobAttempt, now: datetime | None) -> datetime:
    assert now is not None
    if attempt.ended == AttemptEnd.LOST and attempt.last_beat_at is not None:
        return attempt.last_beat_at
    return attempt.ended_at or now
