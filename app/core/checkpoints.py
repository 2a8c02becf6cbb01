"""Checkpoints in the store: the rows that let another worker go on where one stopped."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.orm import Session

from app.core import accounts
from app.core.db import now_plus
from app.core.job_writes import Lease, held, require
from app.core.states import TERMINAL, Stage
from app.core.tables import Job, JobAttempt, JobCheckpoint

# The one before the newest counts where the newest turns out to be damaged.
_KEPT = 2
Files = Mapping[str, Mapping[str, str | int]]  # path in the work folder -> {sha256, size}


@dataclass(frozen=True)
class NewCheckpoint:
    """Where a job stood: `step` of `stage`, None at the stage's end; its files are in the store."""

    stage: str
    step: int | None
    version: str
    files: Files

    @property
    def size_bytes(self) -> int:
        return sum(int(file["size"]) for file in self.files.values())


def save(session: Session, lease: Lease, new: NewCheckpoint) -> None:
    """Add a checkpoint of the running attempt; the newest stay. Raises StaleLease.

    A job that gets on has left its setbacks behind. Raises BlobGone when bytes are not in the store.
    """
    require(session, update(Job).where(held(lease)).values(setbacks=0), lease)
    accounts.refer(session, (str(file["sha256"]) for file in new.files.values()))
    row = {"job_id": lease.job_id, "epoch": lease.epoch, "size_bytes": new.size_bytes, **_columns(new)}
    session.execute(insert(JobCheckpoint).values(row))
    kept = (
        select(JobCheckpoint.id)
        .where(JobCheckpoint.job_id == lease.job_id)
        .order_by(JobCheckpoint.id.desc())
        .limit(_KEPT)
    )
    newest = list(session.scalars(kept))
    _forget(session, JobCheckpoint.job_id == lease.job_id, JobCheckpoint.id.not_in(newest))


def has_come_further(session: Session, lease: Lease) -> bool:
    """Tell whether this attempt has left a checkpoint beyond the one that it went on from.

    One that had to begin anew, though it is not the first, goes over old ground.
    """
    of_attempt = (JobCheckpoint.job_id == lease.job_id) & (JobCheckpoint.epoch == lease.epoch)
    newest = session.execute(
        select(JobCheckpoint.stage, JobCheckpoint.step)
        .where(of_attempt)
        .order_by(JobCheckpoint.id.desc())
        .limit(1)
    ).one_or_none()
    if newest is None:
        return False
    began_at = session.scalars(
        select(JobAttempt.resumed_from).where(
            JobAttempt.job_id == lease.job_id, JobAttempt.epoch == lease.epoch
        )
    ).one()
    if began_at is None:
        return lease.epoch == 1
    return _place(newest.stage, newest.step) > _place(str(began_at["stage"]), began_at["step"])


def list_newest_first(session: Session, job_id: str) -> Sequence[JobCheckpoint]:
    """Return the checkpoints of a job, the newest first."""
    query = select(JobCheckpoint).where(JobCheckpoint.job_id == job_id)
    return session.scalars(query.order_by(JobCheckpoint.id.desc())).all()


def drop(session: Session, job_id: str) -> None:
    """Forget the checkpoints of a job; their bytes are garbage then."""
    _forget(session, JobCheckpoint.job_id == job_id)


def drop_old(session: Session, *, older_than_s: float) -> None:
    """Forget the checkpoints of jobs that ended so long ago that nobody will retry them."""
    over = select(Job.id).where(Job.status.in_(TERMINAL), Job.finished_at < now_plus(-older_than_s))
    _forget(session, JobCheckpoint.job_id.in_(over))


def _forget(session: Session, *which: ColumnElement[bool]) -> None:
    """Delete rows and release their bytes at once: an hour's worth of a large model's fills a disk."""
    gone = session.execute(
        delete(JobCheckpoint).where(*which).returning(JobCheckpoint.files, JobCheckpoint.created_at)
    ).all()
    for files, created_at in gone:
        accounts.release(session, (str(file["sha256"]) for file in files.values()), since=created_at)


def _place(stage: str, step: object) -> tuple[int, float]:
    """Return what is greater the further a job has come; without a step, at the stage's end."""
    return list(Stage).index(Stage(stage)), step if isinstance(step, int) else math.inf


def _columns(new: NewCheckpoint) -> dict[str, object]:
    return {**vars(new), "files": {path: dict(file) for path, file in new.files.items()}}
