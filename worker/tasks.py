"""The Celery tasks: each takes an id, a hint to look into the database."""

from celery import Celery
from celery.bootsteps import StartStopStep
from celery.signals import heartbeat_sent, worker_shutting_down

from app.core.logs import log_fields
from app.core.pulse import beat
from app.core.queue import CHECK_MODEL, RUN_CUDA_JOB, RUN_JOB, make_celery
from worker.supervision.context import WorkerContext
from worker.supervision.model_check import check_hinted_model
from worker.supervisor import run_waiting_jobs


def make_worker(context: WorkerContext) -> Celery:
    """Make the Celery app of one worker, bound to its context."""
    celery = make_celery(context.settings.broker_url)

    @celery.task(name=RUN_JOB)  # type: ignore[untyped-decorator]  # Celery has no types
    def run_job(_job_id: str) -> None:
        # The hint only wakes: whoever is first in the line is taken, which may be another job by now.
        run_waiting_jobs(context)

    @celery.task(name=RUN_CUDA_JOB)  # type: ignore[untyped-decorator]  # Celery has no types
    def run_cuda_job(_job_id: str) -> None:
        run_waiting_jobs(context)

    @celery.task(name=CHECK_MODEL)  # type: ignore[untyped-decorator]  # Celery has no types
    def check_model(model_id: str) -> None:
        with log_fields(model_id=model_id):
            check_hinted_model(context, model_id)

    @heartbeat_sent.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def show_life(**_: object) -> None:
        # Celery sends it while its consumer turns and hears its broker.
        beat(context.settings.pulse_dir, "worker")

    @worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]  # Celery has no types
    def drain(**_: object) -> None:
        context.draining.set()

    class Drain(StartStopStep):  # type: ignore[misc]  # Celery has no types
        # An error that ends the consumer sends no signal, and Celery waits for what hints have started.
        def close(self, _worker: object) -> None:
            context.draining.set()

    celery.steps["worker"].add(Drain)
    return celery
