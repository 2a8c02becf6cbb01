"""Tiny random language models of three families, and how many products each has by its paper."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from worker.models.inputs import TextInput
from worker.models.registry import Network

TOKENS, VOCABULARY, WIDTH, INNER, LAYERS, HEADS, KEY_HEADS, CLASSES = 12, 50, 16, 40, 2, 4, 2, 3


@dataclass(frozen=True)
class Family:
    """How to make one; a text's products in layers and in attention (queries · keys, weights · values)."""

    make: Callable[[], torch.nn.Module]
    layer_macs: int
    attention_macs: int = LAYERS * 2 * TOKENS * TOKENS * WIDTH


def make_bert() -> torch.nn.Module:
    sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    config = BertConfig(vocab_size=VOCABULARY, num_attention_heads=HEADS, num_labels=CLASSES, **sizes)
    return BertForSequenceClassification(config)


def make_gpt2() -> torch.nn.Module:
    sizes = {"n_embd": WIDTH, "n_inner": INNER, "n_layer": LAYERS, "n_head": HEADS, "n_positions": TOKENS}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **sizes))


def make_llama() -> torch.nn.Module:
    sizes = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **heads))


_SQUARE, _MLP, _HEAD = WIDTH * WIDTH, WIDTH * INNER, WIDTH * VOCABULARY
FAMILIES = {
    # Query, key, value, output; two layers inside; the pooler and the classes see the first token alone.
    "bert": Family(make_bert, TOKENS * LAYERS * (4 * _SQUARE + 2 * _MLP) + _SQUARE + WIDTH * CLASSES),
    # The same in Conv1D; the head is the embedding, used as a layer.
    "gpt2": Family(make_gpt2, TOKENS * (LAYERS * (4 * _SQUARE + 2 * _MLP) + _HEAD)),
    # Keys and values of half the heads; a gate beside the two layers inside.
    "llama": Family(
        make_llama,
        TOKENS * (LAYERS * (2 * _SQUARE + 2 * _SQUARE * KEY_HEADS // HEADS + 3 * _MLP) + _HEAD),
    ),
}


def make_network(family: str) -> Network:
    """Make one with random weights, the same every time."""
    torch.manual_seed(0)
    module = FAMILIES[family].make().eval()
    return Network(module, TextInput(TOKENS, VOCABULARY), VOCABULARY, ("language-modeling",))
