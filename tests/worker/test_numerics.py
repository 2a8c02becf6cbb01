"""What makes torch compute the same bits every time."""

from collections.abc import Iterator

import pytest
import torch

from worker.numerics import is_out_of_memory, make_deterministic


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.set_num_threads(threads)
    torch.utils.deterministic.fill_uninitialized_memory = fills


def compute_by_timing() -> torch.Tensor:
    """Do what torch has no deterministic form of."""
    return torch.zeros(4).put_(torch.tensor([1]), torch.ones(1))


def test_on_a_cpu_what_depends_on_timing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    make_deterministic(threads=1, device="cpu")
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        compute_by_timing()


def test_on_a_gpu_it_is_computed_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    make_deterministic(threads=1, device="cuda")
    with pytest.warns(UserWarning, match="does not have a deterministic implementation"):
        assert compute_by_timing().tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_whoever_lacks_memory_says_it_in_words_of_its_own(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory
