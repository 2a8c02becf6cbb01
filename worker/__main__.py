"""Start a worker: `python -m worker`, configured by `SECATEUR_*`."""

import os

from app.core.config import Settings
from app.core.logs import configure_logging
from worker.context import make_context
from worker.tasks import make_worker


def main() -> None:
    """Serve hints until SIGTERM, which gives running jobs back."""
    settings = Settings()
    configure_logging("worker")
    celery = make_worker(make_context(settings))
    # One thread more than slots: a model check never waits behind a job that runs for hours.
    threads = settings.worker_slots + 1
    celery.worker_main(
        [
            "worker",
            "--pool=threads",
            f"--concurrency={threads}",
            f"--hostname=secateur-{os.getpid()}@%h",
            "--loglevel=INFO",
            "--without-gossip",
            "--without-mingle",
        ]
    )


if __name__ == "__main__":
    main()
