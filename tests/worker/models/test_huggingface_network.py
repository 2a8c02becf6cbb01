"""Whose fault it is when a network of transformers cannot be built."""

import pytest
import torch

from app.core.errors import InvalidModel
from worker.models.huggingface import network
from worker.models.tokenizer import TextTokenizer


def test_a_config_that_cannot_be_is_the_user_s_fault():
    with pytest.raises(InvalidModel, match="ValueError: hidden_size"):
        network._guarded(lambda: _raise(ValueError("hidden_size is no multiple of the heads")))


def test_a_machine_without_room_is_not():
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        network._guarded(lambda: torch.empty(2**58, dtype=torch.uint8))


def test_nor_is_it_the_tokenizer_s():
    class Full:
        def num_special_tokens_to_add(self, are_pairs: bool) -> int:
            return 0

        def no_truncation(self) -> None: ...

        def encode(self, text: str, *, add_special_tokens: bool) -> None:
            raise MemoryError

    with pytest.raises(MemoryError):
        TextTokenizer(Full(), pad_id=0, max_tokens=None).encode_document("a text")


def _raise(error: Exception) -> None:
    raise error
