"""A runner without torch for tests: it checkpoints, and leaves bytes that depend on each of its steps.

It stands where worker.runner stands (`SECATEUR_RUNNER_MODULE=tests.chaos.light_runner`), so that thousands of
kills take minutes. Each step is also written down under $CHAOS_TRACE, for the oracle.
"""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

from pydantic import TypeAdapter

from app.core.errors import InvalidSpec, SecateurError, StorageFull
from app.core.states import Stage
from tests.chaos import light_job, light_output
from worker.atomic import write_atomically
from worker.channel import Channel, open_channel
from worker.lifeline import watch_stdin
from worker.lock import hold_folder
from worker.protocol import (
    INPUT_NAME,
    CheckInput,
    CheckpointWritten,
    Failed,
    Finished,
    Progress,
    RunnerInput,
    StageFinished,
    StageStarted,
)

STEP_S = 0.02
CHECKPOINT_STEPS = 5
_MISBEHAVES_AT = 3
_KEPT = 2
_INPUT = TypeAdapter[RunnerInput | CheckInput](RunnerInput | CheckInput)


def main(arguments: list[str]) -> int:
    """Run what lies in the folder given, as worker.runner does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    channel = open_channel()
    watch_stdin()
    try:
        work = Path(arguments[0])
        with hold_folder(work, wait_s=30.0):
            match _INPUT.validate_json((work / INPUT_NAME).read_bytes()):
                case CheckInput() as check:
                    light_output.write_check(work, check)
                case RunnerInput() as given:
                    _run(work, given, channel)
    except Exception as error:
        known = _translate(error)
        channel.send(Failed(problem=known.problem(), blame=known.blame))
        return 1
    channel.send(Finished())
    return 0


def _translate(error: Exception) -> SecateurError:
    match error:
        case SecateurError():
            return error
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return StorageFull("the worker's disk is full")
        case _:
            return SecateurError(repr(error))


def _run(work: Path, given: RunnerInput, channel: Channel) -> None:
    for stage in Stage:
        channel.send(StageStarted(stage=stage))
        if stage is Stage.FINETUNE:
            state = _train(work, given, channel)
        if stage is Stage.EXPORT:
            light_output.write_job(work, given, light_job.artifact_bytes(state))
        channel.send(StageFinished(stage=stage))


def _train(work: Path, given: RunnerInput, channel: Channel) -> str:
    """Do every step that the newest whole checkpoint does not hold."""
    folder, trace = work / "checkpoints" / "finetune" / "light", _Trace(given.job_id)
    total = int(given.spec.labels[light_job.STEPS_LABEL])
    done, state = _read_checkpoint(folder) or (0, light_job.first_state(given.spec.seed))
    trace.write("resume", done)
    for step in range(done + 1, total + 1):
        time.sleep(STEP_S)
        _misbehave(given.spec.labels[light_job.WAY_LABEL], step)
        state = light_job.next_state(state, step)
        trace.write("step", step)
        if step % CHECKPOINT_STEPS == 0:
            _write_checkpoint(folder, step, state)
            channel.send(CheckpointWritten(stage=Stage.FINETUNE, step=step))
            channel.send(_progress(step, total, done))
    return state


def _progress(step: int, total: int, resumed_at: int) -> Progress:
    return Progress(
        stage=Stage.FINETUNE,
        fraction=step / (total + 1),
        step=step,
        total=total,
        eta_s=None,
        data={"resumed_at": resumed_at},
    )


def _write_checkpoint(folder: Path, step: int, state: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps([step, state])
    write_atomically(folder / f"{step:012d}-{light_output.digest(content.encode())}.json", content.encode())
    for old in sorted(folder.glob("[0-9]*.json"), reverse=True)[_KEPT:]:
        old.unlink()


def _read_checkpoint(folder: Path) -> tuple[int, str] | None:
    for path in sorted(folder.glob("[0-9]*.json"), reverse=True):
        content = path.read_bytes()
        if light_output.digest(content) == path.stem.partition("-")[2]:
            step, state = json.loads(content)
            return step, state
        path.unlink()
    return None


def _misbehave(way: str, step: int) -> None:
    if step != _MISBEHAVES_AT:
        return
    match way:
        case "fail":
            raise InvalidSpec("the job was told to fail")
        case "exit":
            os._exit(7)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "nonsense":
            _speak_nonsense()
        case "hang":
            time.sleep(3600)


def _speak_nonsense() -> None:
    for entry in Path("/proc/self/fd").iterdir():
        if int(entry.name) > 2 and str(entry.readlink()).startswith("pipe:"):
            os.write(int(entry.name), b"this is no message\n")
    time.sleep(60)


class _Trace:
    """One line a step, with its process and the time, in a file that outlives the work folder."""

    def __init__(self, job_id: str) -> None:
        folder = os.environ.get("CHAOS_TRACE")
        path = Path(folder) / f"{job_id}.jsonl" if folder else Path(os.devnull)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, what: str, step: int) -> None:
        line = json.dumps({"what": what, "step": step, "pid": os.getpid(), "at": time.time()})
        os.write(self._file, line.encode() + b"\n")


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)
