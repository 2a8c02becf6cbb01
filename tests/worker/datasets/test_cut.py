"""Samples of a step in as few batches as fit into memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.training.recoveries import make_split
from worker.datasets.splits import MAX_TOKENS_AT_ONCE
from worker.datasets.tokens import TextSplit, Tokens
from worker.datasets.windows import WindowSplit


def make_texts(lengths):
    starts = torch.tensor([0, *lengths]).cumsum(0)
    ids = torch.zeros(int(starts[-1]), dtype=torch.int32)
    names = ("input_ids", "attention_mask")
    return TextSplit("train", Tokens(ids, ids, starts), torch.zeros(len(lengths)), names, 0, 0, 1 << 20)


def make_windows(*, block, vocabulary):
    return WindowSplit("train", torch.zeros(64, block, dtype=torch.int32), 0, vocabulary)


@given(st.data(), st.lists(st.sampled_from([1, 17, 300, 4_096, 20_000]), min_size=1, max_size=12))
def test_texts_are_all_there_in_batches_that_fit(data, lengths):
    split = make_texts(lengths)
    picked = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=40))
    parts = split.cut(torch.tensor(picked))
    assert torch.cat(tuple(parts)).tolist() == picked
    longest = int(split.lengths[torch.tensor(picked)].max())
    assert all(len(part) == 1 or len(part) * longest <= MAX_TOKENS_AT_ONCE for part in parts)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("block", "vocabulary", "most"),
    [
        (256, 256, 64),  # attention over 16,384 tokens
        (256, 50_257, 10),  # logits: half a gigabyte
        (1_024, 256, 16),
        (32_768, 256, 1),
    ],
)
def test_windows_fit_by_their_attention_and_by_their_logits(block, vocabulary, most):
    split = make_windows(block=block, vocabulary=vocabulary)
    parts = split.cut(torch.arange(64))
    assert torch.equal(torch.cat(tuple(parts)), torch.arange(64))
    assert max(map(len, parts)) <= most == split.most_at_once
    assert max(len(batch.targets) for batch in split.batches(256)) == most


def test_images_stay_together():
    (part,) = make_split().cut(torch.arange(96))
    assert torch.equal(part, torch.arange(96))
