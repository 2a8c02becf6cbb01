"""The states of jobs and models, and the stages that a job passes."""

from collections.abc import Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


class Stage(StrEnum):
    """In the order in which a job passes them."""

    LOAD = "load"
    BASELINE = "baseline"
    PRUNE = "prune"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"
    EXPORT = "export"
    VERIFY = "verify"


class ModelStatus(StrEnum):
    VALIDATING = "validating"
    READY = "ready"
    REJECTED = "rejected"


class GateOutcome(StrEnum):
    PASSED = "passed"
    WARNED = "warned"
    FAILED = "failed"
    NOT_EVALUATED = "not_evaluated"


class AttemptEnd(StrEnum):
    """How one attempt at a job ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    CRASHED = "crashed"
    STALLED = "stalled"
    LOST = "lost"
    RELEASED = "released"


class BlobState(StrEnum):
    """What the store should have of some bytes."""

    PRESENT = "present"
    DELETING = "deleting"
    DAMAGED = "damaged"
    MISSING = "missing"


class AttemptClass(StrEnum):
    """Why an attempt did not end well, which decides what comes next.

    `user`, `bug`: the job fails. `transient`, `resource`: queued again after a while where that can help, no
    attempt spent. `crash`, `lost`, `stalled`: queued again, an attempt spent; `crash_loop` spent the last
    one. `released`: the worker shut down, no attempt spent. A crash of the class `resource` is the kernel's
    kill for want of memory: an attempt spent, smaller batches from then on.
    """

    USER = "user"
    BUG = "bug"
    TRANSIENT = "transient"
    RESOURCE = "resource"
    CRASH = "crash"
    CRASH_LOOP = "crash_loop"
    LOST = "lost"
    STALLED = "stalled"
    RELEASED = "released"


class Action(StrEnum):
    """What a user can ask of a job."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"


ALLOWED: Mapping[JobStatus, tuple[Action, ...]] = {
    JobStatus.QUEUED: (Action.CANCEL, Action.PAUSE),
    JobStatus.RUNNING: (Action.CANCEL, Action.PAUSE),
    JobStatus.PAUSED: (Action.CANCEL, Action.RESUME),
    JobStatus.SUCCEEDED: (),
    JobStatus.FAILED: (Action.RETRY,),
    JobStatus.CANCELLED: (Action.RETRY,),
}
