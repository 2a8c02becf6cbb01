"""How many bytes tensors take as a safetensors file: their values, and the header before them."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# The names in a header, in the order in which tensors are written: the widest numbers first.
_DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_LENGTH_BYTES = _ALIGNMENT_BYTES = 8


def count_file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the size of the safetensors file of these tensors by name, on any device, none of them written.

    It is that of `safetensors.torch.save` with the metadata that loaders look for, a format of "pt".
    """
    order = {dtype: rank for rank, dtype in enumerate(_DTYPES)}
    # Types that are not listed come last: their header is about as long.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # Any: JSON
    end = 0
    for name in sorted(tensors, key=lambda name: (order.get(tensors[name].dtype, len(order)), name)):
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES.get(tensor.dtype, "F8_E4M3"),
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return _LENGTH_BYTES + -(-len(text) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES + end
