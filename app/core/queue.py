"""The broker side of the queue: task names and a Celery app that carries nothing but ids."""

from pathlib import Path
from urllib.parse import urlsplit

from celery import Celery

RUN_JOB = "secateur.run_job"
RUN_CUDA_JOB = "secateur.run_cuda_job"
CHECK_MODEL = "secateur.check_model"
# What any worker can do, and what needs a GPU; a worker with GPUs listens to both.
ANY_QUEUE = "secateur"
CUDA_QUEUE = "secateur.cuda"
BROKER_SCHEMES = ("redis", "rediss", "redis+socket", "filesystem")
_PING_TIMEOUT_S = 3.0


def make_celery(broker_url: str) -> Celery:
    """Make a Celery app for `redis://`, `redis+socket://` or `filesystem://FOLDER`.

    Messages are hints: acknowledged early, JSON only, no results. The database decides what is run, so a
    message that is lost, repeated or late is harmless.
    """
    celery = Celery("secateur", broker=broker_url, set_as_current=False)
    celery.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_default_queue=ANY_QUEUE,
        task_routes={RUN_CUDA_JOB: {"queue": CUDA_QUEUE}},
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        # By default a worker gives up after 100 tries, three quarters of an hour, and hears nothing any more.
        broker_connection_max_retries=None,
        # A broker that another took over from refuses, which by default ends the worker's hearing for good.
        broker_channel_error_retry=True,
        broker_transport_options={"visibility_timeout": 3600, "socket_timeout": 10},
    )
    if broker_url.startswith("filesystem://"):
        _use_folder(celery, Path(urlsplit(broker_url).path))
    else:
        celery.conf.worker_disable_prefetch = True
    return celery


def ping(celery: Celery) -> None:
    """Speak to the broker once; raises kombu's or redis' error when it does not answer within seconds."""
    with celery.connection_for_write() as connection:
        connection.transport_options = connection.transport_options | {
            "socket_timeout": _PING_TIMEOUT_S,
            "socket_connect_timeout": _PING_TIMEOUT_S,
        }
        connection.connect()


def publish(celery: Celery, task: str, ref: str) -> None:
    """Send one hint; raises kombu's OperationalError when the broker cannot be reached."""
    celery.send_task(task, args=[ref], retry=False, ignore_result=True)


def _use_folder(celery: Celery, folder: Path) -> None:
    for name in ("messages", "control"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    celery.conf.broker_url = "filesystem://"
    celery.conf.broker_transport_options = {
        "data_folder_in": str(folder / "messages"),
        "data_folder_out": str(folder / "messages"),
        "control_folder": str(folder / "control"),
        # One second, the default, made a waiting client wait a second for nothing.
        "polling_interval": 0.1,
    }
