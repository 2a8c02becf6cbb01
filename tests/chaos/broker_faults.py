"""Faults of the broker: hints repeated, late or out of order; a broker emptied, full, asleep, dead."""

import contextlib
import random
import signal
import threading
import time

import psutil
import redis
from kombu.exceptions import OperationalError
from sqlalchemy import select

from app.core.ids import new_id
from app.core.queue import RUN_JOB, make_celery, publish
from app.core.tables import Job
from tests.chaos.faults import fault
from tests.chaos.site import Site

_DUPLICATES = 10


@fault("F10", weight=3)
def duplicate_hints(site: Site, rng: random.Random) -> str | None:
    """Ten hints for one job, from four connections at once."""
    jobs = _some_jobs(site, ("queued", "running"))
    if not jobs:
        return None
    job_id = rng.choice(jobs)
    shares = [[job_id] * (_DUPLICATES // 4 + (i < _DUPLICATES % 4)) for i in range(4)]
    threads = [threading.Thread(target=_publish, args=(site, share)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"{_DUPLICATES} hints for {job_id}"


@fault("F11", weight=2)
def old_hints(site: Site, rng: random.Random) -> str | None:
    """Hints for jobs that are long over, in any order, and for jobs that never were."""
    jobs = _some_jobs(site, ("succeeded", "failed", "cancelled"))
    hints = [*rng.sample(jobs, min(5, len(jobs))), new_id("job")]
    rng.shuffle(hints)
    return f"{len(hints)} old hints" if _publish(site, hints) else None


@fault("F11", weight=2)
def reordered_hints(site: Site, rng: random.Random) -> str | None:
    jobs = _some_jobs(site, ("queued",))
    rng.shuffle(jobs)
    return f"{len(jobs)} hints in another order" if jobs and _publish(site, jobs) else None


@fault("F9", weight=2)
def empty_valkey(site: Site, rng: random.Random) -> str | None:
    with contextlib.suppress(redis.RedisError):
        site.cluster.broker().flushall()
        return "FLUSHALL"
    return None


@fault("F9", weight=1)
def kill_valkey(site: Site, rng: random.Random) -> str | None:
    found = site.cluster.find("valkey")
    if not found:
        return None
    down_s = rng.choice((0.0, rng.uniform(1.0, 5.0)))
    with site.cluster.held("valkey"), contextlib.suppress(psutil.NoSuchProcess):
        found[0].kill()
        time.sleep(down_s)
        return f"valkey {found[0].pid}, down for {down_s:.1f} s"
    return None


@fault("F9", weight=1)
def sleep_valkey(site: Site, rng: random.Random) -> str | None:
    found = site.cluster.find("valkey")
    if not found:
        return None
    for_s = rng.uniform(1.0, 6.0)
    with contextlib.suppress(psutil.Error):
        found[0].send_signal(signal.SIGSTOP)
        try:
            time.sleep(for_s)
        finally:
            found[0].send_signal(signal.SIGCONT)
        return f"valkey {found[0].pid} slept {for_s:.1f} s"
    return None


@fault("F9", weight=1)
def fill_valkey(site: Site, rng: random.Random) -> str | None:
    """No memory left: it refuses to take anything, and evicts nothing."""
    for_s = rng.uniform(1.0, 4.0)
    with contextlib.suppress(redis.RedisError):
        broker = site.cluster.broker()
        broker.config_set("maxmemory", 1)
        try:
            time.sleep(for_s)
        finally:
            broker.config_set("maxmemory", 0)
        return f"valkey full for {for_s:.1f} s"
    return None


def _publish(site: Site, job_ids: list[str]) -> bool:
    celery = make_celery(f"redis+socket://{site.cluster.folder / 'valkey.sock'}")
    try:
        for job_id in job_ids:
            publish(celery, RUN_JOB, job_id)
    except (OperationalError, redis.RedisError):
        return False
    finally:
        celery.close()
    return True


def _some_jobs(site: Site, statuses: tuple[str, ...]) -> list[str]:
    query = select(Job.id).where(Job.status.in_(statuses)).order_by(Job.created_at.desc(), Job.id).limit(50)
    with site.cluster.engine.connect() as connection:
        return list(connection.scalars(query))
