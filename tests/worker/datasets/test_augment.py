"""Random crops and mirror images."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from worker.datasets.augment import crop_and_flip


def augment(images: torch.Tensor, seed: int) -> torch.Tensor:
    return crop_and_flip(images, torch.Generator().manual_seed(seed))


@given(st.integers(1, 3), st.sampled_from([(8, 8), (16, 8), (8, 16)]), st.integers(0, 10**6))
def test_each_result_is_a_crop_of_the_padded_image_maybe_mirrored(channels, size, seed):
    h, w = size
    images = torch.randint(1, 255, (3, channels, h, w), generator=torch.Generator().manual_seed(seed))
    pad = h // 8
    for image, result in zip(images, augment(images, seed), strict=True):
        padded = functional.pad(image, (pad, pad, pad, pad))
        crops = [
            crop
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for crop in (padded[:, top : top + h, left : left + w],)
        ]
        assert any(torch.equal(result, c) or torch.equal(result, c.flip(-1)) for c in crops)


def test_bytes_stay_bytes_and_the_border_is_black():
    images = torch.full((64, 1, 8, 8), 200, dtype=torch.uint8)
    result = augment(images, 0)
    assert result.dtype == torch.uint8
    assert set(result.unique().tolist()) == {0, 200}


def test_half_of_the_images_are_mirrored():
    ramp = torch.arange(8).expand(2000, 1, 8, 8)
    is_falling = augment(ramp, 0)[:, 0, 4, 2] > augment(ramp, 0)[:, 0, 4, 5]
    # Six standard deviations around 1,000 of 2,000.
    assert 866 <= int(is_falling.sum()) <= 1134


def test_images_of_one_batch_move_on_their_own():
    images = torch.rand(1, 1, 32, 32).expand(64, 1, 32, 32)
    assert len({tuple(image.flatten().tolist()) for image in augment(images, 0)}) > 32
