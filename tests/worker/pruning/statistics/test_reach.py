"""Statistics of layers that are hard to reach: fused, compiled, flattened, wide, too large to unfold."""

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.networks import ConvNet, batches, fill
from worker.pruning import prune
from worker.pruning.statistics import Calibration, activations, gather
from worker.pruning.statistics.layer import Statistic

READS: tuple[Statistic, ...] = ("input_norm", "input_gram", "output_magnitude")


class Reads:
    """A criterion by what it reads alone."""

    def reads(self) -> tuple[Statistic, ...]:
        return READS


def statistics(model, layer, data):
    found = gather(model, [layer], criterion=Reads(), calibration=Calibration(data, lambda _o, _t: None))
    return [found[layer].get(name) for name in READS]


class Flat(nn.Module):
    """Lays tokens in one row before its linear layer, as the feed-forward of OPT does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        return self.linear(states.reshape(-1, 4)).view(*states.shape[:2], 3)


def test_padding_does_not_count_where_tokens_lie_in_one_row():
    model, states = Flat(), torch.randn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    noisy = torch.where(mask[..., None].bool(), states, 1e6)
    clean = states[mask.bool()][None]
    padded = statistics(model, "linear.weight", [({"states": noisy, "attention_mask": mask}, None)])
    whole = {"states": clean, "attention_mask": torch.ones(1, 8, dtype=torch.int64)}
    for found, expected in zip(padded, statistics(model, "linear.weight", [(whole, None)]), strict=True):
        torch.testing.assert_close(found, expected)


class Encoder(nn.Module):
    """What torch computes by a fused kernel over nested tensors when it is judged."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        padding = attention_mask == 0
        return self.head(self.encoder(states, src_key_padding_mask=padding)[:, 0])


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt", "activation"])
def test_the_layers_of_torch_s_encoder_are_reached_with_padding_too(criterion):
    model = Encoder()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    data = [({"states": torch.randn(2, 5, 8), "attention_mask": mask}, torch.tensor([0, 1]))]
    recipe = {"criterion": {"name": criterion}, "target": {"value": 0.5}}
    rows = [{"match": "*self_attn*", "set": {"exclude": True}}]
    masks = prune(model, recipe | {"layers": rows}, data)
    assert masks.sparsity == pytest.approx(0.5, abs=0.02)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("in_place", [False, True])
def test_a_part_that_is_compiled_and_has_run_is_reached(in_place):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 2)).eval()
    x, y = torch.randn(8, 4), torch.randint(0, 2, (8,))
    recipe = {"criterion": {"name": "wanda"}, "target": {"value": 0.5}}
    if in_place:
        model.compile(backend="eager")
    else:
        model[1] = torch.compile(model[1], backend="eager")
    # As a validation does.
    with torch.no_grad():
        model(x)
    masks = prune(model, recipe, [(x, y)])
    assert masks.sparsity == 0.5


@pytest.mark.parametrize("criterion", ["wanda", "magnitude"])
def test_doubles_are_pruned_by_their_activations(criterion):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    data = [(torch.randn(5, 6, dtype=torch.float64), torch.randint(0, 3, (5,)))]
    allocation = "owl" if criterion == "magnitude" else "global"
    recipe = {"criterion": {"name": criterion}, "allocation": {"name": allocation}, "target": {"value": 0.5}}
    assert prune(model, recipe, data).sparsity == 0.5


def test_a_convolution_too_large_to_unfold_at_once_has_the_same_statistics(monkeypatch):
    model = ConvNet().eval()
    fill(model, 0, tied=False)
    whole = statistics(model, "conv2.weight", batches(model))
    monkeypatch.setattr(activations, "_MOST_AT_ONCE", 1)
    for found, expected in zip(statistics(model, "conv2.weight", batches(model)), whole, strict=True):
        torch.testing.assert_close(found, expected)
