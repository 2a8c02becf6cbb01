"""Whole blocks left out: the same as passing them by, with a record of what stayed."""

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaForCausalLM

from tests.worker.pruning.removal.drawing import draw_weights
from tests.worker.pruning.removal.tiny_transformers import KINDS, inputs, make, run
from worker.pruning.errors import MaskMismatch, NoMatch
from worker.pruning.removal.depth import Depth
from worker.pruning.removal.stacks import Stack, find_stacks, remove_blocks

FAMILIES = sorted(KINDS)
DECODERS = ["gpt2", "llama", "mistral", "qwen2", "qwen3"]


def find(name: str, model: nn.Module) -> tuple[Stack, ...]:
    return find_stacks(model, lambda one: run(one, inputs(name)))


def pass_by(block: nn.Module) -> None:
    """Make a block return the hidden states that it is given, and T5's biases of positions with them."""

    def forward(hidden_states: Tensor, *args: object, **kwargs: object) -> object:
        return (hidden_states, args[1], args[4]) if type(block).__name__ == "T5Block" else hidden_states

    block.forward = forward


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_without_blocks_is_the_dense_one_that_passes_them_by(name: str, attention: str) -> None:
    model = make(name, attention, layers=4)
    dense = copy.deepcopy(model)
    stacks = find(name, model)
    assert [stack.blocks for stack in stacks] == [4] * (2 if name.startswith("t5") else 1)
    depths = remove_blocks(model, stacks, {stack.name: (0, 3) for stack in stacks})
    with torch.no_grad():
        whole = run(dense, inputs(name))
        for depth in depths:
            assert (depth.kept, depth.blocks) == ((0, 3), 4)
            for number in (1, 2):
                pass_by(dense.get_submodule(f"{depth.name}.{number}"))
        for length in (7, 12):
            given = inputs(name, length, seed=5)
            assert torch.equal(run(model, given), run(dense, given))
        assert not torch.allclose(run(model, inputs(name)), whole, rtol=1e-2)
    assert sum(len(list(model.get_submodule(depth.name).children())) for depth in depths) == 2 * len(depths)


@pytest.mark.parametrize("name", DECODERS)
def test_the_cache_finds_its_entries_after_the_first_block_is_gone(name: str) -> None:
    model = make(name, layers=4)
    (stack,) = find(name, model)
    remove_blocks(model, [stack], {stack.name: (1, 2)})
    first = inputs(name, seed=2)["input_ids"][:1]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    cached, computed = (
        model.generate(first, use_cache=use_cache, **options)  # type: ignore[operator]  # of transformers
        for use_cache in (True, False)
    )
    assert torch.equal(cached, computed)
    blocks = list(model.get_submodule(stack.name).modules())
    numbers = [block.layer_idx for block in blocks if hasattr(block, "layer_idx")]
    assert sorted(set(numbers)) == [0, 1]


def test_each_layer_keeps_its_kind_of_attention() -> None:
    model = make("qwen2", layers=4)
    (stack,) = find("qwen2", model)
    remove_blocks(model, [stack], {stack.name: (1, 3)})
    assert model.config.layer_types == ["sliding_attention"] * 2
    assert model.config.num_hidden_layers == 2


@pytest.mark.parametrize("stack", ["encoder.block", "decoder.block"])
def test_the_first_block_of_t5_has_to_stay_with_its_bias_of_positions(stack: str) -> None:
    model = make("t5")
    stacks = find("t5", model)
    with pytest.raises(MaskMismatch, match=r"block 0 .* holds the bias of relative positions"):
        remove_blocks(model, stacks, {stack: (1,)})
    remove_blocks(model, stacks, {stack: (0,)})
    assert model.config.num_layers + model.config.num_decoder_layers == 3
    assert model.get_submodule(stack.split(".")[0]).config.num_layers == 1


class Stacked(nn.Module):
    """Blocks of a library that nobody declared."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 4))
        self.unused = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)  # type: ignore[no-any-return]  # a Sequential


def test_blocks_of_an_unknown_model_go_where_the_caller_names_them_and_shapes_hold() -> None:
    model, x = Stacked(), torch.randn(2, 6)
    expected = model.blocks[3](model.blocks[0](x))
    stacks = find_stacks(model, lambda one: one(x), ["blocks", "unused"])
    assert find_stacks(model, lambda one: one(x)) == ()
    assert [stack.why_not for stack in stacks] == [
        {3: "makes hidden states of the shape (2, 4) of those of (2, 6)"},
        {0: "runs 0 times in one pass, not once"},
    ]
    (depth,) = remove_blocks(model, stacks, {"blocks": [3, 0]})
    assert depth == Depth("blocks", (0, 3), 4)
    assert torch.equal(model(x), expected)


def test_the_record_says_what_a_tensor_is_called_now() -> None:
    depth = Depth("model.layers", (0, 3), 4)
    assert depth.rename("model.layers.3.mlp.up_proj.weight") == "model.layers.1.mlp.up_proj.weight"
    assert depth.rename("model.layers.2.mlp.up_proj.weight") is None
    assert depth.rename("model.norm.weight") == "model.norm.weight"


def test_an_unknown_family_with_a_list_of_its_layers_in_the_configuration_is_refused() -> None:
    config = GemmaConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=6, intermediate_size=20, max_position_embeddings=32,
    )  # fmt: skip
    model = GemmaForCausalLM(config).eval()
    draw_weights(model)
    given = inputs("llama")
    (stack,) = find_stacks(model, lambda one: run(one, given), ["model.layers"])
    assert stack.why_not == {}
    model.config.layer_kinds = ["one", "another"]
    (stack,) = find_stacks(model, lambda one: run(one, given), ["model.layers"])
    assert set(stack.why_not) == {0, 1}
    assert "entry of layer_kinds" in stack.why_not[0]


@pytest.mark.parametrize(
    ("name", "numbers", "said"),
    [
        ("other", (0,), "there is no stack of blocks 'other'"),
        ("blocks", (), "at least one has to stay"),
        ("blocks", (0, 7), "has the blocks 0 to 3"),
        ("blocks", (0, 1), "block 3 of blocks has to stay: it makes hidden states"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused_before_anything_is_cut(
    name: str, numbers: tuple[int, ...], said: str
) -> None:
    model, x = Stacked(), torch.randn(2, 6)
    stacks = find_stacks(model, lambda one: one(x), ["blocks"])
    with pytest.raises(MaskMismatch, match=said):
        remove_blocks(model, stacks, {name: numbers})
    assert len(model.blocks) == 4


def test_a_name_that_is_no_stack_is_refused_with_the_closest_one() -> None:
    with pytest.raises(NoMatch, match="'block' matches no ModuleList or Sequential; the closest are blocks"):
        find_stacks(Stacked(), lambda one: one(torch.randn(2, 6)), ["block"])
