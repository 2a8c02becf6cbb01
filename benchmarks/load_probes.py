"""What `make bench-load` asks of a running service: each probe returns seconds, one a request or event."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from app.core import jobs
from app.core.tables import JobAttempt

Spec = dict[str, Any]  # Any: JSON
_PAGE = 100


@dataclass(frozen=True)
class Polls:
    """Seconds of each GET of a job, and how many of them were answered 304."""

    seconds: list[float]
    unchanged: int


@dataclass(frozen=True)
class Walk:
    """Seconds of each page of a walk through the whole list, and which jobs it showed, in order."""

    seconds: list[float]
    ids: list[str]


def create_jobs(url: str, make_spec: Callable[[], Spec], *, clients: int, requests: int) -> list[float]:
    """POST /v1/jobs from so many clients at once, each as fast as it is answered."""

    def create(share: int) -> list[float]:
        with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as http:
            return [
                _timed(lambda: http.post("/v1/jobs", json=make_spec()).raise_for_status())
                for _ in range(share)
            ]

    with ThreadPoolExecutor(clients) as pool:
        return [s for seconds in pool.map(create, [requests // clients] * clients) for s in seconds]


def poll_jobs(url: str, ids: list[str], *, rounds: int) -> Polls:
    """GET jobs again and again with the ETag that each had last, as a client that waits does."""
    etags: dict[str, str] = {}
    seconds, unchanged = [], 0
    with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as http:
        for job_id in ids * rounds:
            known = {"If-None-Match": etags[job_id]} if job_id in etags else {}
            started_s = time.perf_counter()
            answer = http.get(f"/v1/jobs/{job_id}", headers=known)
            seconds.append(time.perf_counter() - started_s)
            unchanged += answer.status_code == httpx.codes.NOT_MODIFIED
            etags[job_id] = answer.headers["ETag"]
    return Polls(seconds, unchanged)


def walk_list(url: str, *, between_pages: Callable[[], object]) -> Walk:
    """GET every page of the list, while something happens between any two of them."""
    seconds: list[float] = []
    ids: list[str] = []
    cursor: dict[str, str] = {}
    with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as http:
        while True:
            started_s = time.perf_counter()
            page = http.get("/v1/jobs", params={"limit": _PAGE, **cursor}).raise_for_status().json()
            seconds.append(time.perf_counter() - started_s)
            ids += [job["id"] for job in page["data"]]
            if page["next_cursor"] is None:
                return Walk(seconds, ids)
            cursor = {"cursor": page["next_cursor"]}
            between_pages()


def stream_delays(url: str, sessions: sessionmaker[Session], job_id: str, *, events: int) -> list[float]:
    """Write events of a job, and measure from each commit to its arrival in a stream."""
    with sessions.begin() as session:
        lease = jobs.claim(session, job_id, "bench-load", lease_s=600.0)
    assert lease is not None, f"{job_id} cannot be claimed: the workers must sleep"
    arrived: dict[int, float] = {}
    reader = threading.Thread(target=_read_stream, args=(url, job_id, arrived, events), daemon=True)
    reader.start()
    committed = []
    for number in range(events):
        with sessions.begin() as session:
            jobs.record(session, lease, "progress", {"number": number}, stage="finetune")
        committed.append(time.perf_counter())
        # At another phase of the API's polling each time.
        time.sleep(0.37)
    reader.join(60.0)
    return [arrived[number] - moment for number, moment in enumerate(committed)]


def claim_gaps(sessions: sessionmaker[Session], *, since: int) -> tuple[list[float], list[str]]:
    """Return seconds from the end of an attempt to its worker's next claim, and the jobs as they were taken.

    `since` attempts, the first ones, do not count.
    """
    query = select(JobAttempt.worker, JobAttempt.job_id, JobAttempt.started_at, JobAttempt.ended_at).order_by(
        JobAttempt.started_at
    )
    with sessions() as session:
        rows = session.execute(query).all()[since:]
    gaps: list[float] = []
    ended: dict[str, datetime] = {}
    for row in rows:
        if row.worker in ended:
            gaps.append((row.started_at - ended[row.worker]).total_seconds())
        if row.ended_at is not None:
            ended[row.worker] = row.ended_at
    return gaps, [row.job_id for row in rows]


def _read_stream(url: str, job_id: str, arrived: dict[int, float], events: int) -> None:
    headers = {"Accept": "text/event-stream"}
    with httpx.stream(
        "GET", f"{url}/v1/jobs/{job_id}/events", headers=headers, timeout=60.0, trust_env=False
    ) as answer:
        for line in _data_lines(answer):
            number = _number(line)
            if number is not None:
                arrived[number] = time.perf_counter()
            if len(arrived) == events:
                return


def _data_lines(answer: httpx.Response) -> Iterator[str]:
    return (line for line in answer.iter_lines() if line.startswith("data:"))


def _number(line: str) -> int | None:
    data = json.loads(line.removeprefix("data:"))["data"]
    number = data.get("number")
    return number if isinstance(number, int) else None


def _timed(act: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    act()
    return time.perf_counter() - started_s
