"""What a user is told when a run ends."""

import errno
import logging

import pytest
import torch
from torch import nn

from app.core.errors import Blame, InvalidDataset
from worker.failure import describe_failure
from worker.pruning.errors import NothingToPrune, UnreachableTarget
from worker.pruning.registry import build

# What torch raises for an error of CUDA's, by its base class: its own name changes with the version.
CudaError = RuntimeError
UNREACHABLE = UnreachableTarget("no", metric="sparsity", asked=0.9, nearest=0.5)


def raised(action) -> Exception:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(
    ("error", "code", "blame"),
    [
        (InvalidDataset("wrong"), "invalid_dataset", Blame.USER),
        (UNREACHABLE, "sparsity_unreachable", Blame.USER),
        (NothingToPrune("none"), "pruning_refused", Blame.USER),
        (raised(lambda: build("criterion", "guess", {})), "pruning_refused", Blame.USER),
        (raised(lambda: build("criterion", "magnitude", {"q": 1})), "pruning_refused", Blame.USER),
        (OSError(errno.ENOSPC, "No space left"), "storage_full", Blame.RESOURCE),
        (raised(lambda: torch.empty(1 << 50)), "out_of_memory", Blame.RESOURCE),
        (MemoryError(), "out_of_memory", Blame.RESOURCE),
        (CudaError("CUDA error: uncorrectable ECC error encountered"), "device_unavailable", Blame.WORKER),
        (CudaError("CUDA error: device-side assert triggered"), "internal_error", Blame.BUG),
        (PermissionError(errno.EACCES, "no"), "internal_error", Blame.BUG),
        (KeyError("x"), "internal_error", Blame.BUG),
        (raised(lambda: nn.BatchNorm1d(2)(torch.ones(1, 2))), "invalid_spec", Blame.USER),
    ],
)
def test_each_error_has_its_code_and_its_blame(error, code, blame):
    failed = describe_failure(error)
    assert (failed.problem.code, failed.blame) == (code, blame)


def test_a_users_mistake_keeps_its_words():
    assert "0.5" in describe_failure(UNREACHABLE).problem.detail


def test_a_bugs_trace_goes_to_the_log_and_not_to_the_user(caplog):
    with caplog.at_level(logging.ERROR):
        problem = describe_failure(raised(lambda: {}["secret detail"])).problem
    assert "secret detail" not in problem.detail
    assert "KeyError" in problem.detail
    assert "secret detail" in caplog.text
    assert "Traceback" in caplog.text


def test_a_users_mistake_leaves_no_trace_in_the_log(caplog):
    describe_failure(InvalidDataset("wrong"))
    assert caplog.text == ""
