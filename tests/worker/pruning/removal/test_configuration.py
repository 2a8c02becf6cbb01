"""What a configuration can say of a cut model: transformers builds and loads it, or there is a reason."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from tests.worker.pruning.removal.tiny_transformers import KINDS, inputs, make, run
from worker.pruning.removal.check import prove
from worker.pruning.removal.configuration import Inexpressible, express
from worker.pruning.removal.groups import find_groups
from worker.pruning.removal.queries import find_query_groups
from worker.pruning.removal.stacks import find_stacks, remove_blocks
from worker.pruning.removal.surgery import plan_removal, remove

FAMILIES = sorted(KINDS)
AUTO = {
    "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "ForImageClassification": transformers.AutoModelForImageClassification,
    "ForCausalLM": transformers.AutoModelForCausalLM,
    "LMHeadModel": transformers.AutoModelForCausalLM,
    "ForConditionalGeneration": transformers.AutoModelForSeq2SeqLM,
}
HEADS_EXPRESSED = ["llama", "mistral", "qwen2", "qwen3", "t5", "t5-gated", "vit"]


def cut(name: str, model: nn.Module, kinds: Sequence[str], *, odd: str | None = None) -> None:
    """Remove the last two neurons, the last head or the last query head of each key, of all such groups.

    The group of the name `odd` loses one more.
    """
    given = inputs(name)
    groups = [*prove(model, find_groups(model, **given), lambda one: run(one, given))]
    patterns = [pattern for kind in kinds if kind != "query" for pattern in getattr(KINDS[name], kind)]
    names = {pattern.format(layer) for pattern in patterns for layer in range(8)}
    if "query" in kinds:
        queries = find_query_groups(model)
        groups += queries
        names |= {group.name for group in queries}
    kept = {}
    for group in groups:
        if group.name in names:
            assert group.is_removable, group
            gone = (2 if group.kind == "neuron" else 1) + (group.name == odd)
            kept[group.name] = torch.arange(group.units) < group.units - gone
    remove(model, plan_removal(model, groups, kept))


def halve_depth(name: str, model: nn.Module) -> None:
    stacks = find_stacks(model, lambda one: run(one, inputs(name)))
    remove_blocks(model, stacks, {stack.name: (0, 3) for stack in stacks})


def reload(name: str, model: nn.Module, config: dict[str, Any], folder: Path) -> nn.Module:
    """Write a folder of transformers with weights and a configuration, and let it be read."""
    # A tied weight is written once, as transformers does.
    own = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    state = {key: tensor for key, tensor in model.state_dict().items() if key in own}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    (auto,) = {loader for suffix, loader in AUTO.items() if KINDS[name].model.endswith(suffix)}
    loaded, found = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), found
    assert type(loaded) is type(model)
    return loaded.eval()  # type: ignore[no-any-return]  # of transformers


def check_reload(name: str, model: nn.Module, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    fields = express(model)
    assert isinstance(fields, dict), fields
    loaded = reload(name, model, config | fields, folder)
    with torch.no_grad():
        for length in (7, 12):
            found, expected = (run(one, inputs(name, length)) for one in (loaded, model))
            assert torch.allclose(found, expected, atol=1e-5 * max(1.0, float(expected.abs().max())))
    return {key: value for key, value in fields.items() if config.get(key) != value}


def written(name: str, model: nn.Module) -> dict[str, Any]:
    return model.config.to_dict() | {"architectures": [KINDS[name].model]}  # type: ignore[union-attr, operator]  # of transformers


@pytest.mark.parametrize("name", FAMILIES)
def test_a_dense_model_is_expressed_by_what_its_configuration_says_already(name: str, tmp_path: Path) -> None:
    model = make(name)
    assert check_reload(name, model, written(name, model), tmp_path).items() <= {
        # What others derive is written out: four times the width, the width over the heads.
        ("n_inner", 96),
        ("head_dim", 6),
        ("head_dim", 4),
    }


@pytest.mark.parametrize("name", FAMILIES)
def test_neurons_and_blocks_are_expressed_in_every_family(name: str, tmp_path: Path) -> None:
    model = make(name, layers=4)
    config = written(name, model)
    cut(name, model, ["neurons"])
    halve_depth(name, model)
    changed = check_reload(name, model, config, tmp_path)
    width = 94 if name == "gpt2" else 18
    assert sorted(value for key, value in changed.items() if key not in ("head_dim", "layer_types")) == (
        [2, 2, width] if name.startswith("t5") else [2, width]
    )


@pytest.mark.parametrize("name", HEADS_EXPRESSED)
def test_heads_are_expressed_where_the_configuration_says_how_large_they_are(
    name: str, tmp_path: Path
) -> None:
    model = make(name)
    config = written(name, model)
    cut(name, model, ["heads", "neurons"])
    changed = check_reload(name, model, config, tmp_path)
    if name.startswith("t5"):
        assert changed == {"num_heads": 3, "d_ff": 18}
    elif name == "vit":
        assert changed == {"num_attention_heads": 3, "head_dim": 6, "intermediate_size": 18}
    else:
        changed.pop("head_dim", None)
        assert changed == {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 18}


def test_query_heads_are_expressed_with_their_keys_unchanged(tmp_path: Path) -> None:
    model = make("qwen3")
    config = written("qwen3", model)
    cut("qwen3", model, ["query"])
    assert check_reload("qwen3", model, config, tmp_path) == {"num_attention_heads": 3}


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(HEADS_EXPRESSED)))
def test_heads_are_not_expressed_where_their_size_is_derived_from_their_number(name: str) -> None:
    model = make(name)
    cut(name, model, ["heads"])
    found = express(model)
    assert isinstance(found, Inexpressible)
    assert "the configuration makes it [" in found.reason
    assert "derives the size of a head from" in found.reason


def test_the_reason_names_the_tensor_and_both_of_its_shapes() -> None:
    model = make("bert")
    cut("bert", model, ["heads"])
    assert express(model) == Inexpressible(
        "bert.encoder.layer.0.attention.self.query.weight is [18, 24], the configuration makes it [24, 24]: "
        "its configuration derives the size of a head from hidden_size / num_attention_heads"
    )


def test_a_pooler_that_lost_neurons_is_not_expressed() -> None:
    model = make("bert")
    groups = find_groups(model, **inputs("bert"))
    remove(model, plan_removal(model, groups, {"bert.pooler.dense.weight": torch.arange(24) < 20}))
    assert express(model) == Inexpressible(
        "bert.pooler.dense.weight is [20, 24], the configuration makes it [24, 24]"
    )


@pytest.mark.parametrize(
    ("name", "kind", "odd", "said"),
    [
        ("bert", "neurons", "bert.encoder.layer.1.intermediate.dense.weight", "intermediate_size (17, 18)"),
        ("qwen3", "heads", "model.layers.0.self_attn.q_proj.weight", "num_attention_heads (2, 4)"),
        ("t5", "heads", "encoder.block.0.layer.0.SelfAttention.q.weight", "num_heads (2, 3)"),
    ],
)
def test_layers_of_different_widths_are_not_expressed(name: str, kind: str, odd: str, said: str) -> None:
    model = make(name)
    cut(name, model, [kind], odd=odd)
    assert express(model) == Inexpressible(
        f"the layers differ in {said}, and the configuration has one for all"
    )


def test_a_number_of_heads_that_the_configuration_refuses_is_a_reason() -> None:
    model = make("llama", num_attention_heads=6, num_key_value_heads=6)
    cut("llama", model, ["heads"])
    found = express(model)
    assert isinstance(found, Inexpressible)
    assert "num_attention_heads = 5" in found.reason
    assert "The hidden size (24) is not a multiple of the number of attention heads (5)" in found.reason


def test_attentions_that_are_scaled_by_their_number_are_not_expressed_once_it_changed() -> None:
    model = make("gpt2", layers=4, scale_attn_by_inverse_layer_idx=True)
    assert isinstance(express(model), dict)
    halve_depth("gpt2", model)
    found = express(model)
    assert isinstance(found, Inexpressible)
    assert found.reason.startswith("transformer.h.1.attn.scaling is 0.1")


def test_an_unknown_model_is_not_expressed() -> None:
    assert express(nn.Linear(2, 3)) == Inexpressible("no family is declared for the model type None")
