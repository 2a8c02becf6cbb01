"""The dense model's answers, asked again or remembered."""

import torch
from torch import nn

from app.core.finetune import Distillation, Finetune
from worker.datasets.images import ImageSplit
from worker.training.batches import BatchPlan
from worker.training.teacher import Teacher

CPU = torch.device("cpu")
PLAN = BatchPlan.for_split(7, 3)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(x.flatten(1))


def make_split() -> ImageSplit:
    zero, one = torch.zeros(1), torch.ones(1)
    return ImageSplit("train", torch.rand(7, 1, 2, 2), torch.zeros(7).long(), mean=zero, std=one)


def make_teacher(module: nn.Module, split: ImageSplit, **settings) -> Teacher:
    given = Finetune(distillation=Distillation(**settings.pop("distillation", {})), **settings)
    return Teacher(module, split, settings=given, device=CPU, blocks=PLAN.first_epoch())


def test_a_remembering_teacher_is_asked_once_a_block_and_answers_what_it_answered_there():
    module, split = Counting(), make_split()
    teacher = make_teacher(module, split)
    for step in range(6):
        (indices,) = PLAN.batches(step)
        images, _ = split.take(indices)
        assert torch.allclose(teacher.answer(indices, images).logits, module.linear(images.flatten(1)))
    assert module.calls == len(PLAN.first_epoch()) == 3


def test_a_teacher_that_has_forgotten_everything_answers_the_same_bits():
    module, split = Counting(), make_split()
    one, other = make_teacher(module, split), make_teacher(module, split)
    for step in range(4):
        (indices,) = PLAN.batches(step)
        known = one.answer(indices, split.take(indices).inputs).logits
    assert torch.equal(other.answer(indices, split.take(indices).inputs).logits, known)


def test_a_teacher_of_augmented_images_is_asked_every_time():
    module, split = Counting(), make_split()
    teacher = make_teacher(module, split, augment=True)
    images, _ = split.take(torch.arange(6))
    for shift in (0.0, 1.0):
        answer = teacher.answer(torch.arange(6), images + shift).logits
        assert torch.allclose(answer, module.linear((images + shift).flatten(1)))
    assert module.calls == 2


def test_a_teacher_learns_nothing():
    images, _ = make_split().take(torch.arange(6))
    assert not make_teacher(Counting(), make_split()).answer(torch.arange(6), images).logits.requires_grad


def test_a_teacher_shows_its_hidden_states_where_they_are_asked_for():
    images, _ = make_split().take(torch.arange(6))
    teacher = make_teacher(Counting(), make_split(), distillation={"hidden_states": 1.0})
    (hidden,) = teacher.answer(torch.arange(6), images).hidden
    assert hidden.shape == (6, 3)
