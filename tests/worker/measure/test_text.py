"""Counting and timing language models: a mapping of tensors in, Conv1D, tied weights, attention."""

import pytest
import torch

from app.core.spec import Latency
from tests.worker.measure.text_networks import FAMILIES, TOKENS, VOCABULARY, WIDTH, make_network
from worker.measure.latency import measure_forward_ms, measure_latency
from worker.measure.macs import count_macs
from worker.measure.memory import measure_peak_bytes
from worker.measure.model import measure_model
from worker.models.inputs import TextInput, compute_logits
from worker.models.registry import Network


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def network(family) -> Network:
    return make_network(family)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_text_has_the_products_of_its_layers_and_of_its_attention(family, network, kernel):
    network.module.set_attn_implementation(kernel)
    macs = count_macs(network.module, network.inputs.blank(1))
    assert sum(macs.by_weight.values()) == FAMILIES[family].layer_macs
    assert macs.rest == FAMILIES[family].attention_macs


def test_looking_up_an_embedding_multiplies_nothing(network):
    macs = count_macs(network.module, network.inputs.blank(1)).by_weight
    embeddings = {
        f"{name}.weight"
        for name, module in network.module.named_modules()
        if isinstance(module, torch.nn.Embedding)
    }
    assert embeddings
    assert all(macs[name] == 0 for name in embeddings)


def test_every_parameter_is_counted_once(family, network):
    measured = measure_model(network)
    parameters = list(network.module.parameters())
    assert measured.parameters == sum(p.numel() for p in parameters)
    assert measured.nonzero == sum(int(p.count_nonzero()) for p in parameters)
    assert set(measured.tensors) == {name for name, _ in network.module.named_parameters()}
    of_layers = sum(tensor.macs for tensor in measured.tensors.values())
    assert measured.macs == of_layers + FAMILIES[family].attention_macs


def test_a_tied_head_is_one_tensor_with_the_products_of_the_head():
    network = make_network("gpt2")
    measured = measure_model(network)
    assert "lm_head.weight" not in measured.tensors
    assert measured.tensors["transformer.wte.weight"].macs == TOKENS * WIDTH * VOCABULARY


def test_two_parameters_over_one_memory_are_one_tensor():
    network = make_network("llama")
    before = measure_model(network)
    embedding = network.module.model.embed_tokens.weight
    network.module.lm_head.weight = torch.nn.Parameter(embedding.detach())
    after = measure_model(network)
    assert before.parameters - after.parameters == VOCABULARY * WIDTH
    assert before.weights_bytes - after.weights_bytes == 4 * VOCABULARY * WIDTH
    assert after.tensors["model.embed_tokens.weight"].macs == before.tensors["lm_head.weight"].macs
    assert after.macs == before.macs


@pytest.mark.parametrize(
    ("family", "name", "products_each"),
    [
        ("gpt2", "transformer.wte.weight", TOKENS),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", TOKENS),
        ("llama", "model.layers.1.self_attn.k_proj.weight", TOKENS),
        ("bert", "bert.pooler.dense.weight", 1),
        ("bert", "bert.embeddings.word_embeddings.weight", 0),
    ],
)
def test_a_zero_weight_takes_away_its_products(family, name, products_each):
    network = make_network(family)
    before = measure_model(network)
    with torch.no_grad():
        network.module.get_parameter(name)[:2] = 0.0
    after = measure_model(network)
    zeros = before.nonzero - after.nonzero
    assert zeros > 0
    assert before.effective_macs - after.effective_macs == products_each * zeros
    assert after.macs == before.macs


def test_a_longer_text_takes_more_memory_and_the_weights_as_much(network):
    short, long = (measure_peak_bytes(network.module, TextInput(n, VOCABULARY).blank(1)) for n in (6, 12))
    assert measure_model(network).weights_bytes < short < long
    assert measure_peak_bytes(network.module, network.inputs.blank(1)) == long


def test_measuring_changes_nothing_of_the_model(network):
    batch = network.inputs.blank(2)
    before = compute_logits(network.module, batch)
    measure_model(network)
    assert torch.equal(compute_logits(network.module, batch), before)


def test_texts_are_timed_like_images(family, network):
    counted = measure_model(network)
    result = measure_latency(
        network, make_network(family), Latency(batch_size=2, repeats=10), counted=(counted, counted)
    )
    assert 0 < result.baseline_ms.p50 <= result.baseline_ms.p95
    assert measure_forward_ms(network, counted=counted) > 0
