"""`make bench-load`: what clients and workers wait for with 100, 1,000 and 10,000 jobs queued on Postgres."""

import math
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from app.core import jobs
from app.core.ids import new_id
from app.core.jobs import NewJob
from app.core.tables import Job, JobAttempt, OutboxMessage
from benchmarks import load_probes
from benchmarks.load_probes import Spec
from tests.chaos import arena, light_job
from tests.chaos.site import Site
from tests.chaos.workload import upload_model
from tests.support.postgres import PostgresServer

SIZES = (100, 1_000, 10_000)
WORKERS = 4
_CLIENTS = (1, 8, 32)
_REQUESTS = 192
_POLLED_JOBS, _POLL_ROUNDS = 20, 10
_STREAMED_EVENTS = 40
_CLAIMS_FOR_S = 30.0
_FILL_AT_ONCE = 50


@dataclass(frozen=True)
class Row:
    """One figure: milliseconds at the median and at the 99th percentile, of so many."""

    what: str
    queued: int
    n: int
    p50_ms: float
    p99_ms: float
    note: str = ""


def main() -> int:
    """Fill the queue step by step, and measure at each size."""
    console = Console(width=130)
    rows: list[Row] = []
    postgres = PostgresServer()
    try:
        postgres.start()
        with arena.scaled(postgres, apis=1, workers=WORKERS, max_queued_jobs=1_000_000) as site:
            bench = _Bench(site)
            for size in SIZES:
                with console.status(f"{size:,} jobs queued"):
                    rows += bench.measure(size)
    finally:
        postgres.stop()
    console.print(_table(rows))
    console.print(
        f"{os.cpu_count()} cores for clients, API, relays, {WORKERS} workers and Postgres (no fsync)"
    )
    return 0


class _Bench:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._url: str = site.cluster.urls[0]
        self._sessions: sessionmaker[Session] = sessionmaker(site.cluster.engine)
        self._seeds = iter(range(10**9))
        with httpx.Client(base_url=self._url, timeout=60.0, trust_env=False) as http:
            self._model_id: str = upload_model(http)

    def measure(self, size: int) -> list[Row]:
        """Measure everything with at least `size` jobs in the queue."""
        with self._workers_asleep():
            self._fill(size)
            rows = [self._create(size, clients) for clients in _CLIENTS]
            rows += [self._poll(size), self._walk(size), self._stream(size)]
            # While nobody takes any: the line as it stands, and the attempts so far.
            line = self._read_line()
            since = self._count(select(func.count()).select_from(JobAttempt))
        return [*rows, self._claim(size, line, since)]

    def _fill(self, size: int) -> None:
        """Copy one job that came over HTTP until enough wait: that is quicker, and the same rows."""
        load_probes.create_jobs(self._url, self._spec, clients=1, requests=1)
        with self._sessions() as session:
            template = session.scalars(select(Job).order_by(Job.created_at.desc()).limit(1)).one()
        missing = size - self._count(select(func.count()).where(Job.status == "queued"))
        given = {field.name: getattr(template, field.name) for field in fields(NewJob)}
        for _ in range(0, missing, _FILL_AT_ONCE):
            with self._sessions.begin() as session:
                for _ in range(_FILL_AT_ONCE):
                    new = NewJob(**(given | {"id": new_id("job")}))
                    jobs.create(session, new, hint_again_s=self._site.cluster.settings.hint_again_s)
        # The relays must have caught up: what they still do is no part of what is measured.
        while self._count(select(func.count()).where(OutboxMessage.published_at.is_(None))):
            time.sleep(0.2)

    def _create(self, size: int, clients: int) -> Row:
        seconds = load_probes.create_jobs(self._url, self._spec, clients=clients, requests=_REQUESTS)
        return _row(f"POST /v1/jobs, {clients} clients", size, seconds)

    def _poll(self, size: int) -> Row:
        found = load_probes.poll_jobs(self._url, self._some_jobs(), rounds=_POLL_ROUNDS)
        share = found.unchanged / len(found.seconds)
        return _row("GET /v1/jobs/{id} with its ETag", size, found.seconds, f"{share:.0%} answered 304")

    def _walk(self, size: int) -> Row:
        with self._sessions() as session:
            before = list(session.scalars(select(Job.id).order_by(Job.created_at.desc(), Job.id.desc())))
        post = httpx.Client(base_url=self._url, timeout=60.0, trust_env=False)
        walk = load_probes.walk_list(
            self._url, between_pages=lambda: post.post("/v1/jobs", json=self._spec()).raise_for_status()
        )
        post.close()
        is_stable = walk.ids == before
        note = "each job once, in order, while others were created" if is_stable else "NOT STABLE"
        return _row("GET /v1/jobs, a page of 100", size, walk.seconds, note)

    def _stream(self, size: int) -> Row:
        job_id = self._some_jobs()[0]
        seconds = load_probes.stream_delays(self._url, self._sessions, job_id, events=_STREAMED_EVENTS)
        return _row("event: commit to client (SSE)", size, seconds)

    def _read_line(self) -> list[str]:
        with self._sessions() as session:
            waiting = select(Job.id).where(Job.status == "queued")
            return list(session.scalars(waiting.order_by(Job.created_at, Job.id)))

    def _claim(self, size: int, line: list[str], since: int) -> Row:
        """Let the workers run for a while; how long did a free one wait, and were the oldest taken first?"""
        time.sleep(min(_CLAIMS_FOR_S, size / 10))
        gaps, taken = load_probes.claim_gaps(self._sessions, since=since)
        place = {job_id: number for number, job_id in enumerate(line)}
        # A job that ran when its worker fell asleep comes back to the line later, and has no place in it.
        in_line = [job_id for job_id in taken if job_id in place]
        overtaken = max((abs(place[job_id] - number) for number, job_id in enumerate(in_line)), default=0)
        return _row(
            f"end of a job to the next claim, {WORKERS} workers",
            size,
            gaps,
            f"at most {overtaken} places out of line",
        )

    def _some_jobs(self) -> list[str]:
        with self._sessions() as session:
            ids = sorted(session.scalars(select(Job.id).where(Job.status == "queued")))
        return random.Random(0).sample(ids, _POLLED_JOBS)

    def _count(self, query: object) -> int:
        with self._sessions() as session:
            count = session.scalar(query)  # type: ignore[call-overload]  # any SELECT of one number
        return int(count or 0)

    def _spec(self) -> Spec:
        return dict(light_job.make_spec(self._model_id, seed=next(self._seeds), steps=1))

    @contextmanager
    def _workers_asleep(self) -> Iterator[None]:
        workers = self._site.cluster.find("worker")
        self._signal(workers, signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(workers, signal.SIGCONT)

    @staticmethod
    def _signal(workers: list[object], number: signal.Signals) -> None:
        for worker in workers:
            os.kill(worker.pid, number)  # type: ignore[attr-defined]  # psutil's, through an untyped module


def _row(what: str, size: int, seconds: list[float], note: str = "") -> Row:
    ordered = sorted(seconds)
    p50, p99 = (1000 * ordered[math.ceil(fraction * len(ordered)) - 1] for fraction in (0.5, 0.99))
    return Row(what, size, len(ordered), p50, p99, note)


def _table(rows: list[Row]) -> Table:
    table = Table(
        "what", "jobs queued", "n", "p50 ms", "p99 ms", "", title="make bench-load", title_justify="left"
    )
    for row in sorted(rows, key=lambda row: row.what):
        table.add_row(
            row.what, f"{row.queued:,}", str(row.n), f"{row.p50_ms:.1f}", f"{row.p99_ms:.1f}", row.note
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
