"""Tell whether the device that a run computes on works; one that does not is no fault of the job."""

import torch

from app.core.errors import DeviceUnavailable

# What CUDA says of hardware and drivers. Its other errors may be mistakes in what was computed.
_BROKEN = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "busy or unavailable",
    "no CUDA-capable device",
    "system not yet initialized",
    "unknown error",
)


def require_device(device: str) -> None:
    """Compute on the device; raises DeviceUnavailable, for it is the worker who said that it has it."""
    if device == "cpu":
        return
    try:
        torch.ones(8, device=device).sum().item()
    except (AssertionError, RuntimeError) as error:  # torch without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise DeviceUnavailable(
            f"the worker's GPU does not compute: {reason}; the job is tried again"
        ) from error


def is_device_broken(error: BaseException) -> bool:
    """Tell whether a GPU or its driver failed, and not what was computed on it."""
    text = str(error)
    return isinstance(error, RuntimeError) and "CUDA error" in text and any(word in text for word in _BROKEN)
