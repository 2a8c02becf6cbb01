"""All that the oracle judges by: rows, stored bytes, the clients' journal, the runners' trace; read once."""

import contextlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.core.storage import BlobStore, open_store
from app.core.tables import Artifact, Base, Job, JobAttempt, JobEvent, JobReport, OutboxMessage
from tests.chaos.cluster import Cluster
from tests.chaos.hooks import Hooks
from tests.chaos.journal import Journal

Spec = dict[str, Any]


@dataclass(frozen=True)
class Breach:
    """An invariant that does not hold, and what shows it."""

    invariant: str
    job_id: str
    evidence: str


@dataclass
class Evidence:
    """`expected` gives the digest that a spec must end in; `damaged` are jobs whose files we hurt."""

    cluster: Cluster
    journal: Journal
    expected: Callable[[Spec], str]
    damaged: set[str] = field(default_factory=set)
    hooks: Hooks | None = None

    def __post_init__(self) -> None:
        with Session(self.cluster.engine) as session:
            self.jobs = {row.id: row for row in session.scalars(select(Job).order_by(Job.id))}
            self.events = _grouped(session.scalars(select(JobEvent).order_by(JobEvent.job_id, JobEvent.seq)))
            self.attempts = _grouped(
                session.scalars(select(JobAttempt).order_by(JobAttempt.job_id, JobAttempt.epoch))
            )
            self.artifacts = _grouped(session.scalars(select(Artifact)))
            self.reports = set(session.scalars(select(JobReport.job_id)))
            self.unpublished = len(
                session.scalars(select(OutboxMessage.id).where(OutboxMessage.published_at.is_(None))).all()
            )

    @cached_property
    def created(self) -> dict[str, Spec]:
        """The specs of the jobs that clients were told of."""
        return {fact["job_id"]: fact["spec"] for fact in self.journal.read("created")}

    @cached_property
    def store(self) -> BlobStore:
        return open_store(self.cluster.settings)

    @cached_property
    def complaints(self) -> Counter[str]:
        """The exceptions in the logs of all processes, each by its last line, without ids and numbers."""
        found: Counter[str] = Counter()
        for path in sorted(self.cluster.folder.rglob("*.log")):
            for line in path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    trace = json.loads(line)["exc_info"].strip().splitlines()
                    last = next(t for t in reversed(trace) if not t.startswith("(Background"))
                    found[f"{path.stem.rstrip('0123456789')}: {_without_ids(last)}"] += 1
        return found

    def tell(self, job_id: str) -> list[str]:
        """Say what became of a job: its attempts, its events, and where its runners went on."""
        attempts = [
            f"attempt {a.epoch} at {a.worker}, from {a.resumed_from}: "
            f"{a.ended} {a.class_} {a.detail} {a.warnings}"
            for a in self.attempts[job_id]
        ]
        events = [f"{event.at:%T.%f} {event.seq} {event.type} {event.data}" for event in self.events[job_id]]
        lines = self.traces.get(job_id, [])
        resumptions = [
            f"process {line['pid']} went on from {line['step']} after {before['step'] if before else 0}"
            for before, line in pairwise([None, *lines])
            if line["what"] == "resume"
        ]
        return [*attempts, *events, *resumptions]

    @cached_property
    def traces(self) -> dict[str, list[dict[str, Any]]]:
        """What the light runners wrote down, by job."""
        return {
            path.stem: [json.loads(line) for line in path.read_text().splitlines()]
            for path in sorted(self.cluster.trace.glob("job_*.jsonl"))
        }


def _without_ids(text: str) -> str:
    return re.sub(r"job_[0-9a-z]+|[0-9]+", "#", text)[:110]


def _grouped(rows: Any) -> dict[str, list[Any]]:
    groups: dict[str, list[Base]] = defaultdict(list)
    for row in rows:
        groups[row.job_id].append(row)
    return groups
