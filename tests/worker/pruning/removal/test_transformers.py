"""Heads, keys with their queries and neurons removed from models of every family of transformers."""

import copy
import json

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from tests.worker.pruning.removal.drawing import draw_weights, halve
from tests.worker.pruning.removal.tiny_transformers import KINDS, inputs, make, run
from worker.pruning.errors import UnreachableTarget
from worker.pruning.removal.check import compare, prove
from worker.pruning.removal.groups import Group, find_groups
from worker.pruning.removal.shrinking import shrink
from worker.pruning.removal.surgery import Removal, dump_removal, load_removal, masked, remove, resize

FAMILIES = sorted(KINDS)


def find(name: str, model: nn.Module) -> tuple[Group, ...]:
    given = inputs(name)
    return prove(model, find_groups(model, **given), lambda one: run(one, given))


def cut_in_half(name: str, model: nn.Module) -> Removal:
    removal = halve(model, find(name, model))
    remove(model, removal)
    return removal


def at(name: str, seed: int = 2) -> Tensor:
    return inputs(name, seed=seed)["input_ids"][:1]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FAMILIES)
def test_heads_and_neurons_of_every_layer_are_found_and_nothing_else(name: str, attention: str) -> None:
    kind = KINDS[name]
    found = {group.name: group for group in find(name, make(name, attention)) if group.is_removable}
    heads, neurons = (
        {pattern.format(layer) for pattern in patterns for layer in range(2)}
        for patterns in (kind.heads, kind.neurons)
    )
    assert found.keys() == heads | neurons | set(kind.others)
    assert {found[one].units for one in heads} == {kind.fields.get("num_key_value_heads", 4)}
    assert {found[one].units for one in neurons} == {96 if name == "gpt2" else 20}
    assert {found[one].kind for one in heads} == {"head"}
    assert {found[one].kind for one in neurons} == {"neuron"}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_hidden_width_has_to_stay_since_norms_take_their_mean_over_it(name: str) -> None:
    width = find(name, make(name))[0]
    assert width.units == (12 if name == "electra" else 24)
    assert "over in " in str(width.why_not)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_masked_and_a_removed_model_agree_at_every_length_and_the_removed_one_learns(
    name: str, attention: str
) -> None:
    model = make(name, attention)
    dense = copy.deepcopy(model)
    removal = halve(model, find(name, model))
    lengths = (7, 12)
    for length in lengths:
        given = inputs(name, length, seed=length)
        assert compare(model, removal, lambda one, given=given: run(one, given)) <= 1e-5  # type: ignore[misc]  # given is bound
    with torch.no_grad(), masked(model, removal):
        expected = [run(model, inputs(name, length)) for length in lengths]
    remove(model, removal)
    with torch.no_grad():
        for length, logits in zip(lengths, expected, strict=True):
            found, unpruned = (run(one, inputs(name, length)) for one in (model, dense))
            assert torch.allclose(found, logits, atol=1e-5 * max(1.0, float(logits.abs().max())))
            # Otherwise agreeing would say nothing.
            assert not torch.allclose(found, unpruned, rtol=1e-2)
    model.train()
    run(model, inputs(name)).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.shape == parameter.shape
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cut_state_dict_loads_into_a_cut_model(name: str) -> None:
    model, other = make(name), make(name)
    removal = cut_in_half(name, model)
    draw_weights(other, seed=9)
    remove(other, removal)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(run(model, inputs(name)), run(other, inputs(name)))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_whole_model_takes_the_shapes_and_counts_of_a_cut_one(name: str) -> None:
    model, other = make(name), make(name)
    removal = load_removal(json.loads(json.dumps(dump_removal(cut_in_half(name, model)))))
    resize(other, {key: tensor.shape for key, tensor in model.state_dict().items()}, removal.counts)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(run(model, inputs(name)), run(other, inputs(name)))


@pytest.mark.parametrize(
    ("name", "embedding", "head"),
    [
        ("gpt2", "transformer.wte", "lm_head"),
        ("t5", "shared", "lm_head"),
        ("llama", "model.embed_tokens", "lm_head"),
    ],
)
def test_tied_embeddings_stay_one_tensor(name: str, embedding: str, head: str) -> None:
    model = make(name, tie_word_embeddings=True)
    cut_in_half(name, model)
    assert model.get_submodule(embedding).weight is model.get_submodule(head).weight


def test_gpt2_gets_smaller_its_fused_projections_too() -> None:
    model = make("gpt2")
    before = sum(one.numel() for one in model.parameters())
    cut_in_half("gpt2", model)
    # 2 of 4 heads of 6, 48 of 96 neurons; a Conv1D's weight is [in, out].
    attention, mlp = model.get_submodule("transformer.h.1.attn"), model.get_submodule("transformer.h.1.mlp")
    shapes = {
        name: tuple(one.shape) for module in (attention, mlp) for name, one in module.named_parameters()
    }
    assert shapes == {
        "c_attn.weight": (24, 36),
        "c_attn.bias": (36,),
        "c_fc.weight": (24, 48),
        "c_fc.bias": (48,),
        # Both modules have one: that of the second, and its own bias stays.
        "c_proj.weight": (48, 24),
        "c_proj.bias": (24,),
    }
    assert tuple(attention.c_proj.weight.shape) == (12, 24)  # type: ignore[union-attr]  # a Conv1D
    assert (attention.num_heads, attention.split_size, mlp.c_fc.nf) == (2, 12, 48)  # type: ignore[union-attr]  # the same
    assert sum(one.numel() for one in model.parameters()) < 0.6 * before


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "qwen2", "qwen3", "t5"])
def test_a_cut_model_generates_with_a_cache_what_the_masked_one_does(name: str, attention: str) -> None:
    model = make(name, attention)
    removal = halve(model, find(name, model))
    options = {"max_new_tokens": 8, "do_sample": False, "use_cache": True, "eos_token_id": None}
    with masked(model, removal):
        expected = model.generate(at(name), **options)  # type: ignore[operator]  # of transformers
    remove(model, removal)
    assert torch.equal(model.generate(at(name), **options), expected)  # type: ignore[operator]  # the same
    assert len(set(expected[0].tolist())) > 1


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "bert", "t5"])
def test_texts_without_padding_whose_keys_the_kernel_repeats_itself_agree_too(name: str) -> None:
    model = make(name)
    given = {key: value for key, value in inputs(name).items() if key != "attention_mask"}
    groups = prove(model, find_groups(model, **given), lambda one: run(one, given))
    padded = find(name, model)
    assert [(one.name, one.units, one.is_removable) for one in groups] == [
        (one.name, one.units, one.is_removable) for one in padded
    ]
    assert compare(model, halve(model, groups), lambda one: run(one, given)) <= 1e-5


def prove_unknown(model: PreTrainedModel) -> tuple[Group, ...]:
    draw_weights(model.eval())
    given = inputs("gpt2")
    groups = prove(model, find_groups(model, **given), lambda one: run(one, given))
    assert compare(model, halve(model, groups), lambda one: run(one, given)) <= 1e-5
    return groups


def test_a_family_that_nobody_declared_loses_what_its_graph_proves() -> None:
    layers = {f"{stack}_layers": 2 for stack in ("encoder", "decoder")}
    heads = {f"{stack}_attention_heads": 4 for stack in ("encoder", "decoder")}
    widths = {f"{stack}_ffn_dim": 20 for stack in ("encoder", "decoder")}
    config = BartConfig(vocab_size=40, d_model=24, max_position_embeddings=32, **layers, **heads, **widths)
    removable = [group for group in prove_unknown(BartForConditionalGeneration(config)) if group.is_removable]
    # Two attentions in the decoder's layers, one in the encoder's.
    assert [group.kind for group in removable].count("head") == 6
    assert [group.kind for group in removable].count("neuron") == 4


def test_a_family_that_nobody_declared_is_refused_where_its_code_counts_its_heads() -> None:
    config = OPTConfig(
        vocab_size=40, hidden_size=24, word_embed_proj_dim=24, ffn_dim=20, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=32,
    )  # fmt: skip
    groups = prove_unknown(OPTForCausalLM(config))
    assert [group.name for group in groups if group.is_removable] == [
        f"model.decoder.layers.{layer}.fc1.weight" for layer in range(2)
    ]
    for group in groups:
        if group.kind == "head":
            assert str(group.why_not).startswith(
                "is a constant of the model's code: without 2 of 4 units, shape"
            )


def test_a_multiple_counts_what_heads_put_out() -> None:
    model = make("bert")  # four heads of six: two of them are twelve outputs, a multiple of four
    given = inputs("bert")
    structure = {"target": {"metric": "parameters", "value": 1}, "kinds": ["head"], "multiple_of": 4}
    with pytest.raises(UnreachableTarget) as caught:
        shrink(model, structure, [(given, torch.zeros(2))])
    structure["target"] = {"metric": "parameters", "value": caught.value.nearest}
    shrink(model, structure, [(given, torch.zeros(2))])
    projections = [name for name, _ in model.named_modules() if name.endswith((".query", ".key", ".value"))]
    assert {len(model.get_parameter(f"{name}.weight")) for name in projections} == {12}
