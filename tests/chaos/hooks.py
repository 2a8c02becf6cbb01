"""The receiver of webhooks in the harness: it fails at times, hangs when told to, keeps all it got."""

import random
import threading
import time
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Self

import httpx
from sqlalchemy import func, select, update

from app.core.db import now_plus
from app.core.tables import WebhookDelivery
from tests.chaos.cluster import Cluster
from tests.support.receiver import Received, Receiver
from tests.support.service import wait_for

EVENTS = ("job.succeeded", "job.failed", "job.cancelled")
TIMEOUT_S = 2.0
_FAILING_FRACTION = 0.2
_HANG_S = 1.5 * TIMEOUT_S


class Hooks(AbstractContextManager["Hooks"]):
    """A receiver with a webhook for the ends of all jobs; `taken` are the messages that it said yes to.

    It hears of what happened from `since` on; jobs may have ended before.
    """

    def __init__(self, cluster: Cluster, *, seed: int) -> None:
        self.taken: list[Received] = []
        self.since = datetime.min.replace(tzinfo=UTC)
        self._cluster = cluster
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._hangs_until = 0.0
        self._is_well = False
        self._receiver = Receiver()
        self._receiver.answer = self._answer

    def __enter__(self) -> Self:
        self._receiver.__enter__()
        wanted = {"url": f"{self._receiver.url}/hook", "events": list(EVENTS)}
        url = f"{self._cluster.urls[0]}/v1/webhooks"
        made = httpx.post(url, json=wanted, timeout=30.0, trust_env=False).raise_for_status().json()
        self.since = datetime.fromisoformat(made["created_at"])
        return self

    def __exit__(self, *_: object) -> None:
        self._receiver.__exit__()

    @property
    def received(self) -> list[Received]:
        """Return everything that arrived, refused or not."""
        return list(self._receiver.received)

    def hang(self, for_s: float) -> None:
        """Let every request wait longer than its sender does, for a while."""
        self._hangs_until = time.monotonic() + for_s

    def get_well(self) -> None:
        """Answer everything from now on, and let what waits for its next try be due: hours pass."""
        self._is_well = True
        wait_for(self._send_what_waits, "webhooks to be delivered", within_s=120.0)

    def _send_what_waits(self) -> bool:
        with self._cluster.engine.begin() as connection:
            connection.execute(
                update(WebhookDelivery)
                .where(WebhookDelivery.state == "pending", WebhookDelivery.next_try_at > now_plus(30.0))
                .values(next_try_at=now_plus())
            )
            pending = select(func.count()).where(WebhookDelivery.state == "pending")
            return connection.scalar(pending) == 0

    def _answer(self, received: Received) -> int:
        if not self._is_well and time.monotonic() < self._hangs_until:
            # It takes the message, and its sender never hears of it.
            time.sleep(_HANG_S)
        with self._lock:
            if not self._is_well and self._random.random() < _FAILING_FRACTION:
                return self._random.choice((500, 503, 302))
            self.taken.append(received)
        return 204
