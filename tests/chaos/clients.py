"""Clients that create jobs, insist on an answer, cancel or pause some, and write down what they were told."""

import hashlib
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tests.chaos.cluster import Cluster
from tests.chaos.journal import Journal

TERMINAL = ("succeeded", "failed", "cancelled")
_ASK_AGAIN_S = 0.3
_ACTS_WITHIN_LOOKS = 20
# Answers that tell a client to come again: in flight, too many, the service is ill, no room.
_COME_AGAIN = frozenset({409, 429, 500, 502, 503, 504, 507})
MakeSpec = Callable[[random.Random, str], dict[str, Any]]


@dataclass(frozen=True)
class Manners:
    """How often clients do what: they cancel, pause and resume, and repeat a request that was answered."""

    cancel_fraction: float = 0.15
    pause_fraction: float = 0.15
    repeat_fraction: float = 0.3
    jobs_at_once: int = 2


@dataclass
class _Followed:
    """A job that a client follows: the events that it read, its looks, and at which look it means to act."""

    cancel_at: int | None
    pause_at: int | None
    read: int = 0
    looks: int = 0


class Client(threading.Thread):
    """Keeps a few jobs going until told to stop, then waits for those that are left."""

    def __init__(
        self, cluster: Cluster, journal: Journal, make_spec: MakeSpec, *, seed: str, manners: Manners
    ) -> None:
        super().__init__(name=f"client-{seed}", daemon=True)
        self._urls = cluster.urls
        self._journal = journal
        self._make_spec = make_spec
        self._random = random.Random(seed)
        self._manners = manners
        self._http = httpx.Client(timeout=15.0, trust_env=False)
        self._open: dict[str, _Followed] = {}
        self.stop_creating = threading.Event()
        self.give_up = threading.Event()

    def run(self) -> None:
        while not self.give_up.is_set():
            if not self.stop_creating.is_set() and len(self._open) < self._manners.jobs_at_once:
                self._create()
            for job_id in list(self._open):
                self._look(job_id)
            if self.stop_creating.is_set() and not self._open:
                return
            time.sleep(_ASK_AGAIN_S)

    def _create(self) -> None:
        key = str(uuid.UUID(int=self._random.getrandbits(128)))
        spec = self._make_spec(self._random, key)
        self._journal.write("asked", key=key, spec=spec)
        answer = self._insist("POST", "/v1/jobs", json=spec, headers={"Idempotency-Key": key})
        if answer is None:
            return
        if answer.status_code != 202:
            self._journal.write("refused", key=key, status=answer.status_code, body=answer.text)
            return
        job_id = answer.json()["id"]
        self._journal.write("created", key=key, job_id=job_id, spec=spec)
        self._open[job_id] = _Followed(
            self._draw_look(self._manners.cancel_fraction), self._draw_look(self._manners.pause_fraction)
        )
        if self._random.random() < self._manners.repeat_fraction:
            again = self._insist("POST", "/v1/jobs", json=spec, headers={"Idempotency-Key": key})
            if again is not None:
                self._journal.write("repeated", key=key, job_id=again.json().get("id"))

    def _draw_look(self, fraction: float) -> int | None:
        return self._random.randint(1, _ACTS_WITHIN_LOOKS) if self._random.random() < fraction else None

    def _look(self, job_id: str) -> None:
        followed = self._open[job_id]
        followed.looks += 1
        if followed.looks == followed.cancel_at:
            answer = self._insist("POST", f"/v1/jobs/{job_id}/cancel")
            if answer is not None and answer.status_code == 200:
                self._journal.write("cancel", job_id=job_id, status=answer.json()["status"])
        if followed.looks == followed.pause_at:
            self._ask_once(job_id, "pause")
        self._read_events(job_id)
        answer = self._insist("GET", f"/v1/jobs/{job_id}")
        if answer is None:
            return
        self._journal.write("saw", job_id=job_id, code=answer.status_code, status=answer.json().get("status"))
        if answer.status_code == 200 and answer.json()["status"] == "paused":
            self._ask_once(job_id, "resume")
        if answer.status_code != 200 or answer.json()["status"] in TERMINAL:
            del self._open[job_id]
            if answer.status_code == 200 and answer.json()["status"] == "succeeded":
                self._download(job_id)

    def _ask_once(self, job_id: str, action: str) -> None:
        """Ask for what may come too late; a job that stays paused is seen again."""
        try:
            answer = self._http.post(f"{self._random.choice(self._urls)}/v1/jobs/{job_id}/{action}")
        except httpx.HTTPError as error:
            self._journal.write("no_answer", path=action, error=type(error).__name__)
        else:
            self._journal.write(action, job_id=job_id, code=answer.status_code)

    def _read_events(self, job_id: str) -> None:
        followed = self._open[job_id]
        answer = self._insist("GET", f"/v1/jobs/{job_id}/events", params={"after": followed.read})
        if answer is None or answer.status_code != 200:
            return
        events = [[event["seq"], event["type"]] for event in answer.json()["data"]]
        if events:
            self._journal.write("events", job_id=job_id, after=followed.read, events=events)
            followed.read = events[-1][0]

    def _download(self, job_id: str) -> None:
        answer = self._insist("GET", f"/v1/jobs/{job_id}/artifacts/model.safetensors", follow_redirects=True)
        if answer is not None:
            sha256 = hashlib.sha256(answer.content).hexdigest()
            self._journal.write("downloaded", job_id=job_id, code=answer.status_code, sha256=sha256)

    def _insist(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """Ask one API after another until one answers; None when the client gave up."""
        while not self.give_up.is_set():
            url = self._random.choice(self._urls)
            try:
                answer = self._http.request(method, f"{url}{path}", **request)
            except httpx.HTTPError as error:
                self._journal.write("no_answer", path=path, error=type(error).__name__)
            else:
                if answer.status_code not in _COME_AGAIN:
                    return answer
                code = answer.json().get("code")
                self._journal.write("come_again", path=path, status=answer.status_code, code=code)
            time.sleep(_ASK_AGAIN_S)
        return None
