"""Small models of transformers' families with weights that matter, and inputs of several lengths."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

from tests.worker.pruning.removal.drawing import draw_weights

Inputs = Mapping[str, Tensor]
_TEXT = {"vocab_size": 40, "max_position_embeddings": 32, "pad_token_id": 0}
_ENCODER = _TEXT | {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
}
# Three keys with two queries each.
_DECODER = _ENCODER | {
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_T5 = {
    "vocab_size": 40,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 20,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


@dataclass(frozen=True)
class Kind:
    """A model and its configuration by their names in transformers, its fields, and its removable groups.

    `heads` and `neurons` are the names of the groups, with `{}` for the number of a layer where they are
    one for each.
    """

    model: str
    config: str
    fields: Mapping[str, object]
    heads: tuple[str, ...]
    neurons: tuple[str, ...]
    others: tuple[str, ...] = ()


def _bert(name: str, **more: object) -> Kind:
    stem = f"{name.lower()}.encoder.layer.{{}}"
    return Kind(
        f"{name}ForSequenceClassification",
        f"{name}Config",
        _ENCODER | {"num_labels": 3} | more,
        (f"{stem}.attention.self.query.weight",),
        (f"{stem}.intermediate.dense.weight",),
        ("bert.pooler.dense.weight",) if name == "Bert" else ("classifier.dense.weight",),
    )


def _llama(name: str, **more: object) -> Kind:
    return Kind(
        f"{name}ForCausalLM",
        f"{name}Config",
        _DECODER | more,
        ("model.layers.{}.self_attn.q_proj.weight",),
        ("model.layers.{}.mlp.gate_proj.weight",),
    )


def _t5(fields: Mapping[str, object], inner: str) -> Kind:
    return Kind(
        "T5ForConditionalGeneration",
        "T5Config",
        _T5 | fields,
        # The bias of positions, and the zeros in its place, tie the heads of all layers together.
        tuple(
            f"{stack}.block.0.layer.{layer}.{name}.q.weight"
            for stack, layer, name in (
                ("encoder", 0, "SelfAttention"),
                ("decoder", 0, "SelfAttention"),
                ("decoder", 1, "EncDecAttention"),
            )
        ),
        tuple(
            f"{stack}.layer.{layer}.DenseReluDense.{inner}.weight"
            for stack, layer in (("encoder.block.{}", 1), ("decoder.block.{}", 2))
        ),
    )


KINDS: Mapping[str, Kind] = {
    "bert": _bert("Bert"),
    "roberta": _bert("Roberta", pad_token_id=1),
    "electra": _bert("Electra", embedding_size=12),
    "distilbert": Kind(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        _TEXT | {"dim": 24, "n_heads": 4, "n_layers": 2, "hidden_dim": 20, "num_labels": 3},
        ("distilbert.transformer.layer.{}.attention.q_lin.weight",),
        ("distilbert.transformer.layer.{}.ffn.lin1.weight",),
        ("pre_classifier.weight",),
    ),
    "vit": Kind(
        "ViTForImageClassification",
        "ViTConfig",
        {key: _ENCODER[key] for key in _ENCODER if key not in _TEXT}
        | {"image_size": 16, "patch_size": 4, "num_labels": 3},
        ("vit.layers.{}.attention.q_proj.weight",),
        ("vit.layers.{}.mlp.fc1.weight",),
    ),
    "gpt2": Kind(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 40, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 4}
        | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        ("transformer.h.{}.attn.c_attn.weight",),
        ("transformer.h.{}.mlp.c_fc.weight",),
    ),
    "llama": _llama("Llama"),
    "mistral": _llama("Mistral", sliding_window=4),
    "qwen2": _llama("Qwen2", layer_types=["full_attention", "sliding_attention"], use_sliding_window=True),
    "qwen3": _llama("Qwen3", head_dim=8),
    "t5": _t5({}, "wi"),
    "t5-gated": _t5({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, "wi_0"),
}


def make(name: str, attention: str = "sdpa", *, layers: int = 2, **more: object) -> nn.Module:
    """Return a model of a kind in evaluation mode, some fields of its configuration changed."""
    kind = KINDS[name]
    fields = dict(kind.fields)
    counts = [key for key in ("num_hidden_layers", "n_layers", "n_layer", "num_layers") if key in fields]
    fields |= {counts[0]: layers} | more
    if "layer_types" in fields:
        fields["layer_types"] = (["full_attention", "sliding_attention"] * layers)[:layers]
    config = getattr(transformers, kind.config)(**fields)
    make_model: Callable[..., nn.Module] = getattr(transformers, kind.model)._from_config
    model = make_model(config, attn_implementation=attention).eval()
    draw_weights(model)
    return model


def inputs(name: str, length: int = 7, seed: int = 1) -> Inputs:
    """Return two texts, the second shorter by its padding, or two images."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    ids = torch.randint(3, 40, (2, length), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, -2:], mask[1, -2:] = KINDS[name].fields.get("pad_token_id", 0), 0
    found = {"input_ids": ids, "attention_mask": mask}
    if name.startswith("t5"):
        found["decoder_input_ids"] = torch.randint(3, 40, (2, length - 2), generator=generator)
    return found


def run(model: nn.Module, given: Inputs) -> Tensor:
    """Return the logits."""
    return model(**given).logits  # type: ignore[no-any-return]  # of transformers
