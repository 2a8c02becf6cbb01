"""The training loop around a pruned model."""

import pytest
import torch
from torch import nn

from app.core.errors import DivergedTraining
from app.core.spec import Distillation, Finetune
from worker.datasets.images import ImageSplit
from worker.models.registry import build
from worker.objectives.classification import Classification
from worker.pruning import Pruner
from worker.training.finetune import StepResult, Training, finetune

ARCHITECTURE = {"name": "resnet8x8", "params": {"width": 4, "classes": 3}}


class Companion:
    """Prunes half of the weights before the first step, and notes what it sees."""

    def __init__(self, module: nn.Module) -> None:
        self.pruner = Pruner(module, {"target": {"value": 0.5}})
        self.optimizer: torch.optim.Optimizer | None = None
        self.results: list[StepResult] = []
        self.modes: list[bool] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.pruner.attach(optimizer)

    def before_step(self, step: int) -> None:
        if step == 0:
            self.pruner.update(1.0)

    def after_step(self, result: StepResult) -> None:
        self.pruner.step()
        self.results.append(result)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return build(ARCHITECTURE).module


def make_split() -> ImageSplit:
    """Three classes that differ in their brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    images = torch.rand(96, 1, 8, 8, generator=generator) + labels.reshape(-1, 1, 1, 1)
    return ImageSplit("train", images, labels, mean=torch.ones(1), std=torch.ones(1))


def train(**settings) -> tuple[nn.Module, Companion]:
    given = {"max_steps": 12, "batch_size": 32, "learning_rate": 0.05, **settings}
    module = make_model()
    companion = Companion(module)
    training = Training(Finetune(**given), make_split(), Classification(), 0, torch.device("cpu"))
    finetune(module, training, companion=companion, dense=make_model())
    return module, companion


def test_pruned_weights_and_their_momentum_stay_zero():
    module, companion = train()
    parameters = dict(module.named_parameters())
    for name, mask in companion.pruner.masks.items():
        assert not parameters[name][~mask].any()
        assert not companion.optimizer.state[parameters[name]]["momentum_buffer"][~mask].any()
    assert companion.pruner.masks.sparsity == pytest.approx(0.5, abs=1e-3)


def test_the_model_learns_and_ends_in_evaluation_mode():
    module, companion = train(max_steps=30)
    losses = [result.loss for result in companion.results]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert not module.training


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("distillation", [None, Distillation()])
def test_the_same_seed_gives_the_same_bits(optimizer, augment, distillation):
    settings = {"optimizer": optimizer, "augment": augment, "distillation": distillation, "max_steps": 4}
    one, two = (train(**settings)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_batch_norm_follows_the_pruned_model():
    module, _ = train()
    assert not torch.equal(
        module.state_dict()["bn1.running_mean"], make_model().state_dict()["bn1.running_mean"]
    )


def test_the_steps_are_those_of_the_epochs():
    _, companion = train(max_steps=None, epochs=2, batch_size=40)
    assert [result.step for result in companion.results] == [0, 1, 2, 3]  # 96 // 40 = 2 an epoch


def test_a_diverging_loss_ends_the_training_with_advice():
    with pytest.raises(DivergedTraining, match="learning rate below 1e\\+30"):
        train(learning_rate=1e30)


def test_a_last_step_that_breaks_the_weights_is_seen_too():
    with pytest.raises(DivergedTraining, match="not finite after the last step"):
        train(learning_rate=1e38, max_steps=1, weight_decay=1e10, warmup_fraction=0.0)
