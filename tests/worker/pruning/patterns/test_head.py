"""Attention heads, found by the names of their projections."""

import pytest
import torch
from torch import nn

from tests.worker.pruning.networks import Attention, Transformer, fill
from worker.pruning import Pruner, prune
from worker.pruning.errors import NothingToPrune

HEADS = {"pattern": {"name": "head"}, "target": {"value": 0.5}}


class GroupedAttention(nn.Module):
    """Attention with the names of Llama: four query heads of size 2 share two key heads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_key_value_heads = 2
        self.num_heads = 4
        self.q_proj, self.o_proj = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.k_proj, self.v_proj = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)


class Anonymous(nn.Module):
    """An attention that does not say how many heads it has."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(6, 6) for _ in range(4))


def test_a_head_goes_in_all_four_projections_at_once() -> None:
    torch.manual_seed(0)
    model = Attention(width=8, heads=4)
    masks = prune(model, HEADS)
    rows = masks["self.query.weight"].reshape(4, 2 * 8)
    dead = ~rows.any(dim=1)
    assert dead.sum() == 2
    for name in ("query", "key", "value"):
        mask = masks[f"self.{name}.weight"].reshape(4, 16)
        assert torch.equal(mask, ~dead[:, None].expand(4, 16))
    columns = masks["output.dense.weight"].reshape(8, 4, 2)
    assert torch.equal(columns, ~dead[None, :, None].expand(8, 4, 2))


def test_the_weakest_head_goes_first() -> None:
    model = Attention(width=8, heads=4)
    for projection in (model.self.query, model.self.key, model.self.value):
        with torch.no_grad():
            projection.weight.copy_(torch.tensor([4.0, 1, 3, 2]).repeat_interleave(2)[:, None].expand(8, 8))
    masks = prune(model, {**HEADS, "target": {"value": 0.25}})
    assert masks["self.value.weight"][:, 0].long().tolist() == [1, 1, 0, 0, 1, 1, 1, 1]


def test_the_output_is_what_the_kept_heads_give() -> None:
    model = Transformer().eval()
    fill(model, 3, tied=False)
    masks = prune(model, HEADS)
    dead = ~masks["first.self.value.weight"].any(dim=1)
    x = torch.randn(2, 3, 8)
    before = model.first(x)
    with torch.no_grad():
        # Whatever the biases of a dead head say, nothing of it passes the output projection.
        model.first.self.value.bias[dead] += 100.0
    assert torch.allclose(model.first(x), before)


def test_queries_go_together_with_the_key_head_they_share() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"attn": GroupedAttention()})
    masks = prune(model, HEADS)
    dead = ~masks["attn.k_proj.weight"].reshape(2, -1).any(dim=1)
    assert dead.sum() == 1
    assert torch.equal(masks["attn.q_proj.weight"].reshape(2, -1).any(dim=1), ~dead)
    assert torch.equal(masks["attn.o_proj.weight"].reshape(8, 2, 4).any(dim=(0, 2)), ~dead)


def test_what_is_no_attention_is_refused() -> None:
    pruner = Pruner(Transformer(), HEADS)
    (layer,) = [layer for layer in pruner.layers if layer.name == "classifier.weight"]
    assert layer.why_not is not None
    assert layer.why_not.startswith("is no query, key, value or output of an attention")


def test_an_attention_that_lost_a_projection_to_an_exclusion_is_refused_whole() -> None:
    rows = [{"match": "first.output.dense", "set": {"exclude": True}}]
    pruner = Pruner(Transformer(), {**HEADS, "layers": rows})
    assert {name.split(".")[0] for name in pruner.masks} == {"second"}


def test_a_number_of_heads_that_is_not_known_has_to_be_given() -> None:
    with pytest.raises(NothingToPrune, match="give num_heads"):
        Pruner(Anonymous(), HEADS)
    given = {**HEADS, "pattern": {"name": "head", "params": {"num_heads": 2}}}
    assert prune(Anonymous(), given).sparsity == 0.5


def test_a_number_of_heads_that_does_not_divide_is_refused() -> None:
    given = {**HEADS, "pattern": {"name": "head", "params": {"num_heads": 4}}}
    with pytest.raises(NothingToPrune, match=r"q\.weight has 6 outputs, no multiple of 4 heads"):
        Pruner(Anonymous(), given)
