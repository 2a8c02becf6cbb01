"""Faults of processes: killed, put to sleep, asked to stop, left without files or room."""

import contextlib
import random
import resource
import signal
import time

import psutil

from tests.chaos.faults import fault
from tests.chaos.site import Site
from tests.support.runners import FORK_SERVER

# Long enough to be taken over and for the new owner to get far: several leases.
_ZOMBIE_LEASES = 3.0


@fault("F6", "F18", weight=8)
def kill_runner(site: Site, rng: random.Random) -> str | None:
    runners = site.job_runners()
    if not runners:
        return None
    runner = rng.choice(runners)
    job_id = site.job_of(runner)
    if job_id is None or not _kill(runner):
        return None
    site.mark_kill(job_id, "runner")
    return f"runner {runner.pid} of {job_id}"


@fault("F5", weight=5)
def kill_worker(site: Site, rng: random.Random) -> str | None:
    return _kill_worker(site, rng, with_runners=False)


@fault("F5", weight=1)
def kill_worker_and_runner(site: Site, rng: random.Random) -> str | None:
    return _kill_worker(site, rng, with_runners=True)


@fault("F31", weight=2)
def kill_fork_server(site: Site, rng: random.Random) -> str | None:
    """What it forked goes on; the next runner of that worker has a new one."""
    servers = [server for worker in site.cluster.find("worker") for server in _fork_servers(worker)]
    if not servers:
        return None
    server = rng.choice(servers)
    return f"fork server {server.pid}" if _kill(server) else None


@fault("F1", "F2", weight=3)
def kill_api(site: Site, rng: random.Random) -> str | None:
    return _kill_one(site, rng, "api")


@fault("F4", "F25", weight=2)
def kill_relay(site: Site, rng: random.Random) -> str | None:
    return _kill_one(site, rng, "relay")


@fault("F13", weight=1, modes=("embedded",))
def kill_serve(site: Site, rng: random.Random) -> str | None:
    jobs = site.running_jobs()
    said = _kill_one(site, rng, "serve")
    for job_id in jobs if said else ():
        site.mark_kill(job_id, "serve")
    return said


@fault("F8", weight=2)
def drain_worker(site: Site, rng: random.Random) -> str | None:
    workers = site.cluster.find("worker")
    if not workers:
        return None
    worker = rng.choice(workers)
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.terminate()
        return f"worker {worker.pid} asked to stop"
    return None


@fault("F7", weight=2)
def sleep_through_lease(site: Site, rng: random.Random) -> str | None:
    """The supervisor sleeps, its runner goes on: both wake into a job that is another's."""
    return _sleep(site, rng, with_runners=False)


@fault("F7", weight=1)
def sleep_with_runner(site: Site, rng: random.Random) -> str | None:
    return _sleep(site, rng, with_runners=True)


@fault("F14", weight=2)
def fill_disk_of_worker(site: Site, rng: random.Random) -> str | None:
    """No file of a worker, or of the runners that it starts, may grow: no room is left for anything."""
    return _limit(site, rng, "worker", psutil.RLIMIT_FSIZE, limit=0)


@fault("F14", weight=1, modes=("scaled",))
def fill_disk_of_api(site: Site, rng: random.Random) -> str | None:
    return _limit(site, rng, "api", psutil.RLIMIT_FSIZE, limit=0)


@fault("F26", weight=1)
def starve_api_of_files(site: Site, rng: random.Random) -> str | None:
    return _limit(site, rng, "api", psutil.RLIMIT_NOFILE, limit=12)


def _kill(process: psutil.Process) -> bool:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


def _kill_one(site: Site, rng: random.Random, role: str) -> str | None:
    found = site.cluster.find(role)
    if not found:
        return None
    process = rng.choice(found)
    return f"{role} {process.pid}" if _kill(process) else None


def _kill_worker(site: Site, rng: random.Random, *, with_runners: bool) -> str | None:
    workers = site.cluster.find("worker")
    if not workers:
        return None
    worker = rng.choice(workers)
    jobs = site.running_jobs(worker)
    runners = _children(worker) if with_runners else []
    if not _kill(worker):
        return None
    for runner in runners:
        _kill(runner)
    for job_id in jobs:
        site.mark_kill(job_id, "worker")
    return f"worker {worker.pid} with {len(jobs)} jobs" + (" and its runners" if with_runners else "")


def _sleep(site: Site, rng: random.Random, *, with_runners: bool) -> str | None:
    workers = [w for w in site.cluster.find("worker") if site.running_jobs(w)]
    if not workers:
        return None
    worker = rng.choice(workers)
    jobs = site.running_jobs(worker)
    slept_s = site.lease_s * _ZOMBIE_LEASES
    sleepers = [worker, *(_children(worker) if with_runners else ())]
    _signal(sleepers, signal.SIGSTOP)
    try:
        time.sleep(slept_s)
    finally:
        _signal(sleepers, signal.SIGCONT)
    return f"worker {worker.pid} slept {slept_s:.0f} s over {', '.join(jobs)}"


def _limit(site: Site, rng: random.Random, role: str, what: int, *, limit: int) -> str | None:
    found = site.cluster.find(role)
    if not found:
        return None
    process = rng.choice(found)
    for_s = rng.uniform(0.5, 2.0)
    with contextlib.suppress(psutil.Error):
        before = process.rlimit(what)
        # What is forked has the limits of its server.
        for each in (process, *_fork_servers(process)):
            each.rlimit(what, (limit, before[1]))
        time.sleep(for_s)
        for each in (process, *_children(process)):
            with contextlib.suppress(psutil.Error):
                each.rlimit(what, (before[0] if before[0] > 0 else resource.RLIM_INFINITY, before[1]))
        return f"{role} {process.pid} for {for_s:.1f} s"
    return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _fork_servers(worker: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [child for child in worker.children() if child.name() == FORK_SERVER]
    return []


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
