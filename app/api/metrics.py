"""The metrics of Prometheus: requests as they are answered, all else from the database when one asks."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from app.api.observed import AnsweredRequest
from app.core.db import Sessions
from app.services.figures import Figures, News, Waiting, read_figures, read_news

METRICS_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_WAIT_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 43_200.0, 172_800.0)
_STAGE_S = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 172_800.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_log = logging.getLogger(__name__)


class Metrics:
    """One registry a process; every process tells the same of the database, and its own of its requests."""

    def __init__(self, *, cache_s: float) -> None:
        self._cache_s = cache_s
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._since: datetime | None = None
        # It leaves out a second series for each, which only OpenMetrics has a use for.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client left it untyped
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._state = _State()
        self._registry.register(self._state)
        self._requests = Histogram(
            "secateur_http_request_seconds",
            "Time from a request to the end of its answer.",
            ("method", "route", "status"),
            buckets=_REQUEST_S,
            registry=self._registry,
        )
        self._claims = Histogram(
            "secateur_claim_seconds",
            "Time from a job's creation to its first claim by a worker.",
            buckets=_WAIT_S,
            registry=self._registry,
        )
        self._stages = Histogram(
            "secateur_stage_seconds",
            "Time that a stage of a job took.",
            ("stage",),
            buckets=_STAGE_S,
            registry=self._registry,
        )
        self._attempts = Counter(
            "secateur_attempts_ended",
            "Attempts at jobs by how they ended.",
            ("ended",),
            registry=self._registry,
        )
        self._leases_lost = Counter(
            "secateur_leases_lost", "Attempts whose worker fell silent.", registry=self._registry
        )

    def observe(self, seen: AnsweredRequest) -> None:
        """Count an answered request. The names of routes and methods are ours, so that nobody can add any."""
        method = seen.method if seen.method in _METHODS else "other"
        self._requests.labels(method, seen.route, str(seen.status)).observe(seen.elapsed_s)

    def render(self, sessions: Sessions) -> bytes:
        """Return everything in the text format; without its database a service still tells the rest."""
        with self._lock:
            now = time.monotonic()
            if self._read_at is None or now - self._read_at >= self._cache_s:
                self._refresh(sessions)
                self._read_at = now
            return generate_latest(self._registry)

    def _refresh(self, sessions: Sessions) -> None:
        try:
            with sessions() as session:
                self._state.figures = read_figures(session)
                self._count(read_news(session, self._since))
        except SQLAlchemyError as error:
            _log.warning("figures not read", extra={"error": type(error).__name__})
            self._state.figures = None

    def _count(self, news: News) -> None:
        self._since = news.until
        for seconds in news.claim_s:
            self._claims.observe(seconds)
        for stage, seconds in news.stage_s:
            self._stages.labels(stage).observe(seconds)
        for ended, count in news.attempts_ended.items():
            self._attempts.labels(ended).inc(count)
        self._leases_lost.inc(news.attempts_ended.get("lost", 0))


class _State(Collector):
    """The gauges that one reading of the database gives."""

    def __init__(self) -> None:
        self.figures: Figures | None = None

    def collect(self) -> Iterator[Metric]:
        up = self.figures is not None
        yield GaugeMetricFamily("secateur_database_up", "Whether the database answered.", value=float(up))
        if self.figures is None:
            return
        found = self.figures
        yield _by("secateur_jobs", "Jobs by status.", "status", found.jobs)
        counts = {name: waiting.count for name, waiting in found.queues.items()}
        oldest = {name: waiting.oldest_s for name, waiting in found.queues.items()}
        yield _by("secateur_queue_jobs", "Jobs that wait for a worker.", "queue", counts)
        yield _by("secateur_queue_oldest_seconds", "Age of the job that waits longest.", "queue", oldest)
        yield from _waiting("secateur_outbox", "hints that have not reached the broker", found.outbox)
        yield _by("secateur_webhook_deliveries", "Deliveries by state.", "state", found.deliveries)
        yield from _waiting("secateur_webhook_due", "deliveries whose time has come", found.deliveries_due)
        yield GaugeMetricFamily(
            "secateur_webhooks_disabled", "Webhooks that are sent nothing.", value=found.webhooks_disabled
        )
        yield _by("secateur_store_bytes", "Bytes that rows refer to, by kind.", "kind", found.store_bytes)


def _by(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((str(key),), float(value))
    return family


def _waiting(name: str, what: str, waiting: Waiting) -> Iterator[Metric]:
    yield GaugeMetricFamily(f"{name}_messages", f"Number of {what}.", value=waiting.count)
    yield GaugeMetricFamily(f"{name}_lag_seconds", f"Age of the oldest of {what}.", value=waiting.oldest_s)
