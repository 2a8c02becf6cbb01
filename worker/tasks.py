"""The Celery tasks: each takes an id, a hint to look into the database."""

from celery import Celery
from celery.signals import worker_shutting_down

from app.core.queue import CHECK_MODEL, RUN_JOB, make_celery
from worker.context import WorkerContext
from worker.model_check import check_hinted_model
from worker.supervisor import run_hinted_job


def make_worker(context: WorkerContext) -> Celery:
    """Make the Celery app of one worker, bound to its context."""
    celery = make_celery(context.settings.broker_url)

    @celery.task(name=RUN_JOB)  # type: ignore[untyped-decorator]  # Celery has no types
    def run_job(job_id: str) -> None:
        run_hinted_job(context, job_id)

    @celery.task(name=CHECK_MODEL)  # type: ignore[untyped-decorator]  # Celery has no types
    def check_model(model_id: str) -> None:
        check_hinted_model(context, model_id)

    @worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def drain(**_: object) -> None:
        context.draining.set()

    return celery
