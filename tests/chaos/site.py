"""What a fault may reach: the cluster, its database server, and the record of what it killed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import select

from app.core.states import JobStatus
from app.core.tables import Job
from tests.chaos.cluster import Cluster
from tests.chaos.hooks import Hooks
from tests.support.postgres import PostgresServer
from tests.support.runners import find_folder


@dataclass(frozen=True)
class Kill:
    """A kill -9 that took a job's worker or runner away, to be followed to the job's next progress."""

    job_id: str
    what: str
    at: float


@dataclass
class Site:
    """Faults read and hurt; nothing here repairs."""

    cluster: Cluster
    postgres: PostgresServer | None = None
    kills: list[Kill] = field(default_factory=list)
    hooks: Hooks | None = None

    @property
    def lease_s(self) -> float:
        return self.cluster.settings.lease_s

    def running_jobs(self, worker: psutil.Process | None = None) -> list[str]:
        """Return the ids of the jobs that run, those of one worker only when it is given."""
        query = select(Job.id).where(Job.status == JobStatus.RUNNING).order_by(Job.id)
        if worker is not None:
            query = query.where(Job.lease_owner.like(f"%:{worker.pid}"))
        with self.cluster.engine.connect() as connection:
            return list(connection.scalars(query))

    def job_of(self, runner: psutil.Process) -> str | None:
        """Return the job whose work folder a runner was given; None for one that checks a model."""
        folder = find_folder(runner)
        return folder.name if folder is not None and folder.name.startswith("job_") else None

    def job_runners(self) -> list[psutil.Process]:
        """Return the runners that run a job, in the order of their jobs."""
        found = {self.job_of(runner): runner for runner in self.cluster.runners()}
        return [found[job_id] for job_id in sorted(job_id for job_id in found if job_id is not None)]

    def checkpoints(self) -> Iterator[Path]:
        """Yield the newest checkpoint of each job that has one on this disk."""
        for folder in sorted(self.cluster.settings.work_dir.glob("job_*/checkpoints/*/*")):
            found = sorted(folder.glob("[0-9]*-*.*"))
            if found:
                yield found[-1]

    def mark_kill(self, job_id: str, what: str) -> None:
        self.kills.append(Kill(job_id, what, time.time()))
