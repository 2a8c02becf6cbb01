"""Query heads that share a key: one of every key can go, and so any of a model with a single key."""

import pytest
import torch
from torch import Tensor, nn

from tests.worker.pruning.removal.drawing import halve
from tests.worker.pruning.removal.tiny_transformers import inputs, make, run
from worker.pruning.removal.check import compare, prove
from worker.pruning.removal.groups import Group, find_groups
from worker.pruning.removal.queries import find_query_groups
from worker.pruning.removal.surgery import masked, plan_removal, remove


def find(name: str, model: nn.Module) -> tuple[Group, ...]:
    given = inputs(name)
    return prove(model, find_groups(model, **given), lambda one: run(one, given))


def at(name: str) -> Tensor:
    return inputs(name, seed=2)["input_ids"][:1]


@pytest.mark.parametrize("keys", [1, 2, 3])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_query_heads_can_go_one_of_every_key(name: str, attention: str, keys: int) -> None:
    model = make(name, attention, num_key_value_heads=keys, num_attention_heads=12)
    given = inputs(name)
    groups = prove(model, find_query_groups(model), lambda one: run(one, given))
    assert [(group.units, group.why_not) for group in groups] == [(12 // keys, None)] * 2
    with torch.no_grad():
        unpruned = run(model, given)
    removal = halve(model, groups)
    for length in (7, 12):
        longer = inputs(name, length, seed=4)
        assert compare(model, removal, lambda one, longer=longer: run(one, longer)) <= 1e-5  # type: ignore[misc]  # bound
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    with masked(model, removal):
        expected = model.generate(at(name), **options)  # type: ignore[operator]  # of transformers
    remove(model, removal)
    attention_module = model.get_submodule("model.layers.0.self_attn")
    assert attention_module.num_key_value_groups == 12 // keys // 2
    with torch.no_grad():
        assert not torch.allclose(run(model, given), unpruned, rtol=1e-2)
    assert torch.equal(model.generate(at(name), **options), expected)  # type: ignore[operator]  # the same


def test_queries_and_keys_with_their_queries_can_go_in_one_plan() -> None:
    model = make("llama")
    given = inputs("llama")
    groups = (*find("llama", model), *find_query_groups(model))
    kept = {
        "model.layers.0.self_attn.q_proj.weight": torch.tensor([True, False, True]),
        "model.layers.0.self_attn.q_proj.weight[of each key]": torch.tensor([False, True]),
    }
    removal = plan_removal(model, groups, kept)
    assert compare(model, removal, lambda one: run(one, given)) <= 1e-5
    remove(model, removal)
    # Of 6 queries of 4 numbers the second of each of 2 keys.
    assert tuple(model.get_parameter("model.layers.0.self_attn.q_proj.weight").shape) == (8, 24)
    assert tuple(model.get_parameter("model.layers.0.self_attn.k_proj.weight").shape) == (8, 24)


def test_a_single_key_has_to_stay_and_a_query_of_its_own_is_no_unit_apart() -> None:
    single = make("llama", num_key_value_heads=1)
    heads = [group for group in find("llama", single) if group.kind == "head"]
    assert heads
    assert all("is shared by several channels" in str(group.why_not) for group in heads)
    assert find_query_groups(make("llama", num_key_value_heads=6)) == ()
    assert find_query_groups(make("bert")) == ()
