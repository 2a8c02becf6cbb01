"""Does a split of images fit a model?"""

import pytest
import torch
from torch import nn

from app.core.errors import DatasetMismatch, LabelsOutOfRange
from worker.datasets.images import ImageSplit
from worker.models.inputs import ImageInput
from worker.models.registry import Network


def make_split(labels: list[int], shape: tuple[int, ...] = (1, 8, 8)) -> ImageSplit:
    images = torch.zeros(len(labels), *shape, dtype=torch.uint8)
    return ImageSplit("train", images, torch.tensor(labels), mean=torch.zeros(1), std=torch.ones(1))


def check(split: ImageSplit) -> None:
    split.check_fit(Network(nn.Identity(), ImageInput((1, 8, 8)), 3))


@pytest.mark.parametrize("labels", [[0], [2], [0, 1, 2], [1, 1]])
def test_labels_inside_the_models_classes_fit(labels):
    check(make_split(labels))


def test_images_of_another_shape_are_refused_with_both_shapes():
    with pytest.raises(DatasetMismatch, match=r"\[3, 32, 32\].*\[1, 8, 8\]"):
        check(make_split([0], (3, 32, 32)))


def test_more_classes_than_the_models_are_another_problem():
    with pytest.raises(DatasetMismatch, match="has 5 classes, the model tells 3 apart"):
        check(make_split([0, 1, 2, 3, 4] * 2))


@pytest.mark.parametrize(("labels", "found"), [([0, 1, 3], 3), ([0, -1, 2], -1), ([0, 900, 2], 900)])
def test_a_single_label_out_of_range_is_shown_with_its_place(labels, found):
    with pytest.raises(LabelsOutOfRange, match=rf"1 labels outside 0..2; the first is {found} at index"):
        check(make_split(labels))
