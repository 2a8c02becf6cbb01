"""Turn whatever ended a run into the problem that a user is shown: the worker's one handler of errors."""

import errno
import logging

from app.core.errors import (
    Blame,
    DeviceUnavailable,
    InvalidSpec,
    OutOfMemory,
    PruningRefused,
    SecateurError,
    SparsityUnreachable,
    StorageFull,
)
from worker.device import is_device_broken
from worker.numerics import is_out_of_memory
from worker.protocol import Failed
from worker.pruning.errors import PruningError, UnreachableTarget
from worker.pruning.registry import InvalidParams, UnknownPlugin

_log = logging.getLogger(__name__)


def describe_failure(error: Exception) -> Failed:
    """Return the message for an error; a bug's traceback goes to the log alone."""
    known = _translate(error)
    if known.blame is Blame.BUG:
        _log.error("run_failed", exc_info=error, extra={"code": known.code})
    return Failed(problem=known.problem(), blame=known.blame)


def _translate(error: Exception) -> SecateurError:
    match error:
        case SecateurError():
            return error
        case UnreachableTarget():
            return SparsityUnreachable(str(error))
        case PruningError() | UnknownPlugin() | InvalidParams():
            return PruningRefused(str(error))
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return StorageFull("the worker's disk is full; the job is tried again")
        case ValueError() if "Expected more than 1 value per channel" in str(error):
            return InvalidSpec(
                "BatchNorm has nothing to normalise by in a batch of one sample: expected a train split and "
                "a batch_size of at least 2, or of 4 where memory ran out and batches are halved"
            )
        case _ if is_out_of_memory(error):
            return OutOfMemory(
                f"there was no memory left: {_first_line(error)}; a smaller batch_size may help"
            )
        case _ if is_device_broken(error):
            return DeviceUnavailable(
                f"this worker's GPU failed: {_first_line(error)}; the job is tried again"
            )
        case _:
            return SecateurError(
                f"an unexpected {type(error).__name__} ended the run; it is logged with its trace"
            )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
