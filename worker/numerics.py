"""Make torch compute the same bits every time."""

import os

import torch

from app.core.config import Device

# The CPU's allocator, cuBLAS and cuDNN have no error class of their own.
_NO_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def make_deterministic(*, threads: int, device: Device) -> None:
    """Fix the number of threads and, on a CPU, refuse operations whose result depends on timing.

    A GPU, which promises no bits, has none but such for some: the gradient of VGG's pooling for one. They
    are warned of there.

    cuBLAS reads its setting when the first CUDA call is made, so this comes before any of those.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.set_num_threads(threads)
    # As use_deterministic_algorithms(True), without the second that importing its compiler settings takes.
    torch.set_deterministic_debug_mode("error" if device == "cpu" else "warn")
    # Nothing here reads memory before it is written; filling it costs a tenth of the training time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by __class__
    torch.backends.cudnn.benchmark = False


def seed_everything(seed: int) -> None:
    """Seed what draws without a generator of its own, so that a stage does not depend on those before it."""
    torch.manual_seed(seed)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether there was no memory left, on the device or on the machine."""
    is_told = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_told
