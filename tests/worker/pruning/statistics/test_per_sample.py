"""Gradients of single samples, many at once: what one pass a sample finds, in fewer passes."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.worker.pruning.criteria.tiny import LAYERS, Reads, images, net
from worker.models.registry import build
from worker.pruning.statistics import Calibration, LayerStatistics, gather, per_sample

STATISTICS = ("gradient", "absolute_gradient", "squared_gradient")


class Branches(nn.Module):
    """Decides by what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y * 2 if y.sum() > 0 else y


class Tied(nn.Module):
    """Reads and answers with one table."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, scale: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).tanh() * scale[:, None, None])


def counted(model: nn.Module) -> list[int]:
    """Return the list into which each pass of the model writes."""
    passes: list[int] = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    return passes


def gathered(model, names, data) -> dict[str, LayerStatistics]:
    return gather(model, names, criterion=Reads(STATISTICS), calibration=Calibration(data=data))


def check(model: nn.Module, names, data) -> None:
    """Compare with one pass and one plain backward a sample, in evaluation mode."""
    found = gathered(model, names, data)
    model.eval()
    rows = []
    for inputs, targets in data:
        for index in range(len(targets)):
            one = {k: v[index : index + 1] for k, v in inputs.items()} if isinstance(inputs, dict) else None
            answer = model(**one) if one else model(inputs[index : index + 1])
            target = targets[index : index + 1]
            loss = functional.cross_entropy(answer.flatten(0, -2), target.flatten())
            rows.append(torch.autograd.grad(loss, [model.get_parameter(name) for name in names]))
    for at, name in enumerate(names):
        each = torch.stack([row[at] for row in rows])
        expected = (each.mean(0), each.abs().mean(0), each.square().mean(0))
        for statistic, mean in zip(STATISTICS, expected, strict=True):
            # A bias of keys has a gradient of zero but for rounding, whoever computes it.
            atol = 1e-5 * max(mean.abs().max().item(), 1e-3)
            torch.testing.assert_close(found[name].get(statistic), mean, rtol=1e-3, atol=atol)


def test_many_samples_in_few_passes():
    model = net()
    passes = counted(model)
    gathered(model, LAYERS, images(1, 20, 7))
    assert len(passes) == 3
    check(model, LAYERS, images(1, 20, 7))


def test_attention():
    torch.manual_seed(0)
    vit = {"library": "secateur", "name": "vit-small-images", "params": {"width": 32, "depth": 2}}
    model = build(vit).module
    names = [name for name, parameter in model.named_parameters() if parameter.dim() == 2]
    passes = counted(model)
    x, y = torch.randn(9, 1, 8, 8), torch.arange(9)
    gathered(model, names, [(x, y)])
    assert len(passes) == 1
    check(model, names, [(x, y)])


def test_a_tied_table_and_inputs_by_name():
    torch.manual_seed(0)
    model = Tied()
    tokens = torch.randint(0, 11, (9, 4))
    passes = counted(model)
    data = [({"tokens": tokens, "scale": torch.rand(9)}, tokens.roll(-1, 1))]
    gathered(model, ["embedding.weight"], data)
    assert len(passes) == 1
    check(model, ["embedding.weight"], data)


def test_a_model_that_branches_on_what_it_computes_takes_a_pass_a_sample():
    torch.manual_seed(0)
    model = Branches()
    passes = counted(model)
    data = [(torch.randn(9, 5), torch.arange(9) % 3), (torch.randn(2, 5), torch.arange(2))]
    gathered(model, ["linear.weight"], data)
    assert len(passes) == 1 + 9 + 2
    check(model, ["linear.weight"], data)


@pytest.mark.parametrize(("samples_in_memory", "passes_for_20"), [(20, 1), (9, 3), (7, 20)])
def test_memory_bounds_how_many_pass_at_once(monkeypatch, samples_in_memory, passes_for_20):
    model = net()
    size = sum(4 * model.get_parameter(name).numel() for name in LAYERS)
    monkeypatch.setattr(per_sample, "_MEMORY", samples_in_memory * size)
    passes = counted(model)
    gathered(model, LAYERS, images(20))
    assert len(passes) == passes_for_20
    check(model, LAYERS, images(20))
