"""Run one job, or check one model, in its work folder: `python -m worker.runner WORK`.

It knows no database and holds no credentials: what it needs lies in the folder, what it has to say goes
to stdout (see worker.protocol). stdin must be a pipe that its supervisor holds open.
"""

import logging
import os
import signal
import sys
from pathlib import Path

from pydantic import TypeAdapter

from app.core.logs import add_log_fields, configure_logging
from worker.channel import Channel, open_channel
from worker.device import require_device
from worker.export.reload import CLEAN_MODULE, FRESH
from worker.failure import describe_failure
from worker.forks.client import Starter, can_fork, fork_server
from worker.lifeline import watch_stdin
from worker.lock import hold_folder
from worker.numerics import make_deterministic
from worker.pipeline.check import check_model
from worker.pipeline.job import Job
from worker.pipeline.publish import publish
from worker.pipeline.stages import run_stages
from worker.protocol import INPUT_NAME, CheckInput, Finished, RunnerInput
from worker.stopping import STOPPED, Stopped

_log = logging.getLogger("worker.runner")
_LOCK_WAIT_S = 30.0
_INPUT = TypeAdapter[RunnerInput | CheckInput](RunnerInput | CheckInput)


def main(arguments: list[str]) -> int:
    """Run what lies in the folder given; return 0 when it finished, 1 when it failed and said so.

    3 says that it stopped after a checkpoint, as it was asked to.
    """
    # The system's own handler ends the process at once, inside of a long operation too.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Before there is a second thread, and before anything of the job is seen.
    clean = fork_server(CLEAN_MODULE) if can_fork() else FRESH
    configure_logging("runner")
    channel = open_channel()
    watch_stdin()
    try:
        work = Path(arguments[0])
        with hold_folder(work, wait_s=_LOCK_WAIT_S):
            _run(work, channel, clean)
    except Stopped:
        return STOPPED
    except Exception as error:  # the one place that turns errors into a failed run
        channel.send(describe_failure(error))
        return 1
    channel.send(Finished())
    return 0


def _run(work: Path, channel: Channel, clean: Starter) -> None:
    given = _INPUT.validate_json((work / INPUT_NAME).read_bytes())
    device = given.device if isinstance(given, RunnerInput) else "cpu"
    make_deterministic(threads=given.threads, device=device)
    match given:
        case CheckInput():
            add_log_fields(model_id=given.model_id)
            _log.info("check begins")
            check_model(work, given)
        case RunnerInput():
            add_log_fields(job_id=given.job_id, attempt=given.attempt)
            require_device(given.device)
            # CUDA is not to be had in every process that was forked.
            job = Job(work, given, clean=clean if given.device == "cpu" else FRESH)
            _log.info("run begins", extra={"device": given.device, "threads": given.threads})
            run_stages(job, channel.send)
            publish(job)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    # Everything is on disk and said; torch would take most of a second to take itself apart.
    os._exit(status)
