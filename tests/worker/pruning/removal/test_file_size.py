"""The bytes of a file are counted without writing it."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from worker.pruning.removal.file_size import count_file_bytes

DTYPES = [
    torch.int64,
    torch.float64,
    torch.complex64,
    torch.float32,
    torch.int32,
    torch.bfloat16,
    torch.float16,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
_SHAPES = st.lists(st.integers(0, 40), max_size=3)
_NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)


@settings(deadline=None)
@given(st.dictionaries(_NAMES, st.tuples(_SHAPES, st.sampled_from(DTYPES)), max_size=12))
def test_the_count_is_the_length_of_what_safetensors_writes(
    forms: dict[str, tuple[list[int], torch.dtype]],
) -> None:
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in forms.items()}
    assert count_file_bytes(tensors) == len(save(tensors, metadata={"format": "pt"}))
