"""SynFlow against products of |W| written out."""

import pytest
import torch
from torch import nn

from tests.worker.pruning.criteria.tiny import Conv1D, Reads, images, mlp, net, statistics_of, vectors
from worker.pruning.criteria.synflow import Synflow
from worker.pruning.statistics import Calibration, NonfiniteStatistics, gather
from worker.pruning.statistics.calibration import Batch
from worker.pruning.statistics.synflow import gather_flow


def _score(model: nn.Module, name: str, data: object) -> torch.Tensor:
    stats = statistics_of(model, name, "flow_gradient", data=data)
    return Synflow().score(model.get_parameter(name), stats)


def test_it_is_the_share_of_paths_by_their_product_of_magnitudes():
    # R = 1ᵀ|C||B||A|1; a weight of B in row i, column j is on (1ᵀ|C|)_i |B_ij| (|A|1)_j of it.
    model = mlp(5, 4, 3, 2).double()
    a, b, c = (model[i].weight.detach().abs() for i in (0, 2, 4))
    behind, before = c.sum(0), a.sum(1)
    expected = behind[:, None] * b * before[None, :] / (behind @ b @ before)
    torch.testing.assert_close(_score(model, "2.weight", vectors(2, 5)), expected.float())


def test_every_layer_of_a_chain_scores_one_in_sum():
    model = mlp(5, 7, 3, 6)
    for name in ("0.weight", "2.weight", "4.weight"):
        assert _score(model, name, vectors(2, 5)).sum().item() == pytest.approx(1.0, abs=1e-5)


def test_only_the_shape_of_the_data_matters():
    model = net()
    few, many = images(1, seed=1), images(9, seed=2)
    assert torch.equal(_score(model, "conv.weight", few), _score(model, "conv.weight", many))


def test_biases_and_signs_do_not_matter():
    model = mlp(5, 4, 3)
    before = _score(model, "0.weight", vectors(2, 5))
    with torch.no_grad():
        model[0].bias.fill_(100.0)
        model[2].weight.neg_()
    assert torch.equal(_score(model, "0.weight", vectors(2, 5)), before)


def test_a_batchnorm_multiplies_by_what_it_would_be_folded_to():
    # |A| row i is worth |γ_i| / sqrt(σ²_i + ε) behind it: here 2 / sqrt(4) = 1 and 6 / sqrt(4) = 3.
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.BatchNorm1d(2, eps=0.0), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[1].weight.copy_(torch.tensor([-2.0, 6.0]))
        model[1].running_var.fill_(4.0)
        model[1].running_mean.fill_(50.0)
        model[1].bias.fill_(-50.0)
    scores = _score(model, "0.weight", vectors(2, 1))
    torch.testing.assert_close(scores, torch.tensor([[0.25], [0.75]]))


def test_a_layer_norm_multiplies_by_its_scale_alone():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.LayerNorm(2), nn.GELU())
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[1].weight.copy_(torch.tensor([1.0, 3.0]))
    scores = _score(model, "0.weight", vectors(2, 2))
    torch.testing.assert_close(scores, torch.tensor([[0.125, 0.125], [0.375, 0.375]]))


def test_attention_carries_no_flow_through_its_queries_and_keys():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
            self.head = Conv1D(4, 2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.embedding(tokens)
            q, k, v = (layer(x)[:, None] for layer in (self.query, self.key, self.value))
            attended = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.head(attended[:, 0, 0])

    model = Attention()
    data = [(torch.randint(0, 10, (2, 6)), torch.zeros(2, dtype=torch.long))]
    assert not _score(model, "query.weight", data).any()
    assert not _score(model, "key.weight", data).any()
    torch.testing.assert_close(_score(model, "value.weight", data).sum(), torch.tensor(1.0))


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("value_width", [4, 6])
def test_attention_as_torch_has_it_carries_none_either(value_width: int, need_weights: bool) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # Other values at each position, so that what is attended to would matter.
            self.positions = nn.Parameter(torch.randn(6, value_width))
            self.attention = nn.MultiheadAttention(4, 2, vdim=value_width, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, x[..., :1] + self.positions, need_weights=need_weights)[0]

    torch.manual_seed(0)
    model = Attention()
    names = [name for name, _ in model.attention.named_parameters(prefix="attention") if "bias" not in name]
    flows = gather_flow(model.eval(), names, Batch(torch.randn(2, 6, 4), None, 2))
    if value_width == 4:
        query, key, value = flows["attention.in_proj_weight"].chunk(3)
    else:
        query, key, value = (flows[f"attention.{one}_proj_weight"] for one in "qkv")
    assert not query.any()
    assert not key.any()
    assert value.all()
    paths = flows["attention.out_proj.weight"] * model.attention.out_proj.weight.abs()
    torch.testing.assert_close(paths.sum().float(), torch.tensor(1.0))


def test_a_network_whose_flow_is_beyond_float32_has_finite_scores():
    # 100 layers of width 10 and weights of 1: R = 10^101, where float32 ends at 3e38.
    model = mlp(*[10] * 101)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    scores = _score(model, "100.weight", vectors(1, 10))
    torch.testing.assert_close(scores, torch.full((10, 10), 0.01))


def test_a_network_without_any_path_is_refused():
    model = mlp(5, 4, 3)
    with torch.no_grad():
        model[2].weight.zero_()
    with pytest.raises(NonfiniteStatistics, match="all zero"):
        gather(
            model,
            ["0.weight"],
            criterion=Reads(("flow_gradient",)),
            calibration=Calibration(data=vectors(2, 5)),
        )
