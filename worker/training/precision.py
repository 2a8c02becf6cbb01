"""The precision of a training's forward passes: float32, or bfloat16 where the device computes in it."""

from contextlib import AbstractContextManager, nullcontext

import torch

from app.core.finetune import Finetune

# Of x86 and of ARM, as torch names them.
_CPU_CAPABILITIES = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def autocast(settings: Finetune, device: torch.device) -> AbstractContextManager[object]:
    """Run products and convolutions in the precision that was asked for; weights and updates stay float32.

    bfloat16 has the range of float32, so the loss needs no scaling; it is itself computed in float32. On a
    device without such products they take many times as long as in float32, which is computed in then.
    """
    if settings.precision == "float32" or not computes_in_bfloat16(device):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for products of bfloat16, rather than standing in for them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in _CPU_CAPABILITIES)
