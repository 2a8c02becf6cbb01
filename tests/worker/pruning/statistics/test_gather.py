"""Gathering: what goes in, what is refused, and that nothing is left behind."""

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.criteria.tiny import LAYERS, Reads, images, mlp, net, statistics_of, vectors
from worker.pruning.errors import MissingData, NoMatch, UnsuitableLayer
from worker.pruning.statistics import (
    Calibration,
    LayerNeverRan,
    LayerStatistics,
    MissingStatistic,
    NonfiniteStatistics,
    gather,
)

EVERYTHING = Reads(
    (
        "gradient", "absolute_gradient", "squared_gradient", "connection_total", "hessian_gradient",
        "hessian_diagonal", "input_norm", "input_gram", "output_magnitude", "output_zero_fraction",
        "flow_gradient",
    )
)  # fmt: skip


class Fails(nn.Module):
    """Raises from its second forward pass on, behind a layer."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.inside(x)
        if self.calls >= 2:
            raise RuntimeError("out of luck")
        return y


@pytest.mark.parametrize("statistic", EVERYTHING.statistics)
def test_a_forward_pass_that_raises_leaves_no_hook_and_no_mode_behind(statistic):
    model = Fails(net())
    model.calls = 1 if statistic == "flow_gradient" else 0
    model.train()
    names = [f"inside.{name}" for name in LAYERS]
    weights = {name: model.get_parameter(name) for name in names}
    with pytest.raises(RuntimeError, match="out of luck"):
        gather(model, names, criterion=Reads((statistic,)), calibration=Calibration(data=images(2, 2, 2)))
    assert all(module.training for module in model.modules())
    assert all(model.get_parameter(name) is weight for name, weight in weights.items())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_buffers_that_the_forward_pass_changes_are_put_back():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 3)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += len(x)
            return self.linear(x)

    model = Counts()
    statistics_of(model, "linear.weight", *EVERYTHING.statistics, data=vectors(4, 5))
    assert model.seen.item() == 0.0


def test_statistics_are_on_evaluation_mode_whatever_the_models_mode():
    data, model = images(6), net()
    model.train()
    training = statistics_of(model, "conv.weight", "gradient", data=data).gradient
    model.eval()
    assert torch.equal(statistics_of(model, "conv.weight", "gradient", data=data).gradient, training)


def test_only_as_many_batches_as_asked_for_are_read():
    def endless():
        while True:
            yield images(3)[0]

    assert statistics_of(net(), "conv.weight", "input_norm", data=endless(), batches=4).samples == 12


def test_splitting_the_data_into_batches_changes_nothing_but_rounding():
    model = net()
    x, y = images(12)[0]
    whole = gather(model, LAYERS, criterion=EVERYTHING, calibration=Calibration(data=[(x, y)]))
    split = [(x[:1], y[:1]), (x[1:8], y[1:8]), (x[8:], y[8:])]
    parts = gather(model, LAYERS, criterion=EVERYTHING, calibration=Calibration(data=split))
    for name in LAYERS:
        for statistic in EVERYTHING.statistics:
            torch.testing.assert_close(
                parts[name].get(statistic), whole[name].get(statistic), rtol=1e-4, atol=1e-5
            )


def test_inputs_may_be_several_by_position_or_by_name():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.linear(input=left + right)

    model = Both()
    (x, y), (z, _) = vectors(4, 5)[0], vectors(4, 5, seed=2)[0]
    by_name = gather(
        model,
        ["linear.weight"],
        criterion=EVERYTHING,
        calibration=Calibration(data=[({"right": z, "left": x}, y)]),
    )["linear.weight"]
    by_position = gather(
        model, ["linear.weight"], criterion=EVERYTHING, calibration=Calibration(data=[((x, z), y)])
    )["linear.weight"]
    for statistic in EVERYTHING.statistics:
        assert torch.equal(by_name.get(statistic), by_position.get(statistic))


def test_a_layer_under_a_tied_name_is_the_same_layer():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).tanh())

    model, data = Tied(), vectors(6, 4)
    reads = ("gradient", "absolute_gradient", "input_norm")
    one = statistics_of(model, "first.weight", *reads, data=data)
    other = statistics_of(model, "second.weight", *reads, data=data)
    nn.functional.cross_entropy(model(data[0][0]), data[0][1]).backward()
    torch.testing.assert_close(one.gradient, model.first.weight.grad)
    hidden = model.first(data[0][0]).tanh()
    norm = torch.cat([data[0][0], hidden]).square().sum(0).sqrt()
    torch.testing.assert_close(one.input_norm[0], norm.detach())
    for statistic in reads:
        assert torch.equal(one.get(statistic), other.get(statistic))


def test_bf16_gradients_are_summed_in_float32():
    # 1,000 gradients of 0.001 each: summed in bf16 they stall at 0.5, a mean of 0.0005.
    layer = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    data = [(torch.full((1000, 1), 0.001, dtype=torch.bfloat16), None)]
    stats = statistics_of(
        layer, "weight", "absolute_gradient", "squared_gradient", data=data, loss=lambda out, _: out.mean()
    )
    assert stats.absolute_gradient.item() == pytest.approx(0.001, rel=0.01)
    assert stats.squared_gradient.item() == pytest.approx(1e-6, rel=0.02)


def test_a_loss_of_ones_own_takes_outputs_and_targets():
    layer, (x, y) = nn.Linear(5, 3), vectors(4, 5)[0]
    stats = statistics_of(
        layer,
        "weight",
        "gradient",
        data=[(x, y)],
        loss=lambda outputs, targets: (outputs[:, 0] * targets).mean(),
    )
    torch.testing.assert_close(stats.gradient[0], (x * y[:, None]).mean(0))
    assert not stats.gradient[1:].any()


def test_the_default_loss_takes_logits_of_transformers_and_targets_of_tokens():
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Output:
            return Output(self.linear(x))

    model, x = Tagger(), torch.randn(4, 6, 5)
    targets = torch.randint(0, 3, (4, 6))
    targets[:, 4:] = -100
    stats = statistics_of(model, "linear.weight", "gradient", data=[(x, targets)])
    nn.functional.cross_entropy(model(x).logits[:, :4].flatten(0, 1), targets[:, :4].flatten()).backward()
    torch.testing.assert_close(stats.gradient, model.linear.weight.grad)


@pytest.mark.parametrize("data", [None, []])
def test_missing_data_is_an_error_that_says_who_needs_it(data):
    with pytest.raises(MissingData, match="Reads needs data"):
        statistics_of(net(), "conv.weight", "gradient", data=data)


@pytest.mark.parametrize("batch", [torch.randn(2, 3, 8, 8), (torch.randn(2, 3, 8, 8),), ("text", None)])
def test_a_batch_that_is_no_pair_of_tensors_is_refused(batch):
    with pytest.raises(Exception, match="batch"):
        statistics_of(net(), "conv.weight", "gradient", data=[batch])


def test_an_unknown_name_is_an_error_that_names_the_closest():
    with pytest.raises(NoMatch, match=r"the closest are conv.weight"):
        gather(net(), ["conv.wieght"], criterion=Reads(()))


def test_activations_of_other_modules_are_refused():
    with pytest.raises(UnsuitableLayer, match=r"bn1.weight: .* not for BatchNorm2d"):
        statistics_of(net(), "bn1.weight", "input_norm", data=images(2))


def test_a_layer_that_never_runs_has_no_activations():
    model = mlp(5, 4, 3)
    model.unused = nn.Linear(5, 5)
    model.forward = lambda x: model[2](model[0](x))
    with pytest.raises(LayerNeverRan, match=r"unused\.weight: .*exclude it in the recipe"):
        statistics_of(model, "unused.weight", "input_norm", data=vectors(2, 5))


def test_a_layer_that_the_loss_does_not_depend_on_has_a_gradient_of_zero():
    model = mlp(5, 4, 3)
    model.unused = nn.Linear(5, 5)
    model.forward = lambda x: model[2](model[0](x))
    for statistic in ("gradient", "squared_gradient", "hessian_gradient", "hessian_diagonal"):
        assert not statistics_of(model, "unused.weight", statistic, data=vectors(2, 5)).get(statistic).any()


def test_nan_is_refused_with_the_name_of_the_layer():
    model = mlp(5, 4, 3)
    with torch.no_grad():
        model[0].weight[1, 1] = float("nan")
    with pytest.raises(NonfiniteStatistics, match=r"2.weight: gradient holds NaN"):
        statistics_of(model, "2.weight", "gradient", data=vectors(3, 5))


def test_reading_what_was_not_gathered_is_an_error():
    with pytest.raises(MissingStatistic, match="layer7: input_norm was not gathered"):
        LayerStatistics(name="layer7").get("input_norm")
