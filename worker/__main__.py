"""Start a worker: `python -m worker`, configured by `SECATEUR_*`."""

import os
import sys

from celery import Celery
from celery.apps.worker import Worker
from celery.signals import worker_shutdown

from app.core.logs import configure_logging
from app.core.queue import ANY_QUEUE, CUDA_QUEUE
from app.core.startup import CannotStart, check_parts, read_settings
from worker.poller import start_poller
from worker.supervision.context import make_context
from worker.supervision.gpus import start_watch
from worker.supervision.scratch import keep_clear
from worker.tasks import make_worker

EXIT_CANNOT_START = 1


def main() -> None:
    """Serve hints until SIGTERM, which gives running jobs back."""
    configure_logging("worker")
    try:
        settings = read_settings()
        check_parts(settings)
    except CannotStart as error:
        sys.stderr.write(f"secateur: {error}\n")
        sys.exit(EXIT_CANNOT_START)
    context = make_context(settings)
    context.starters[None].prepare()
    keep_clear(context)
    if settings.worker_device == "cuda":
        start_watch(context.slots, context.draining)
    celery = make_worker(context)
    start_poller(context)
    queues = ANY_QUEUE if settings.worker_device == "cpu" else f"{CUDA_QUEUE},{ANY_QUEUE}"
    # One thread more than slots: a model check never waits behind a job that runs for hours.
    threads = context.slots.total + 1
    arguments = [
        "--quiet",  # its banner is no JSON
        "worker",
        "--pool=threads",
        f"--concurrency={threads}",
        f"--queues={queues}",
        f"--hostname=secateur-{os.getpid()}@%h",
        "--loglevel=INFO",
        "--without-gossip",
        "--without-mingle",
    ]
    try:
        status = _serve(celery, arguments)
    finally:
        # Threads that nobody tells would keep a process that hears nothing any more.
        context.draining.set()
    sys.exit(status)


def _serve(celery: Celery, arguments: list[str]) -> int:
    """Serve to the end; returns Celery's exit code, which it tells to nobody but its signal."""
    found = [0]

    @worker_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def note(sender: Worker, **_: object) -> None:
        found.append(sender.exitcode or 0)

    celery.worker_main(arguments)
    return found[-1]


if __name__ == "__main__":
    main()
