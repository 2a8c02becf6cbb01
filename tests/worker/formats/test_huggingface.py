"""Reading Hugging Face folders: the model that from_pretrained gives, and nothing that was not checked."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from app.core.errors import (
    ArchitectureMismatch,
    InvalidHeader,
    InvalidModel,
    NonfiniteWeights,
    UnknownArchitecture,
)
from app.core.huggingface import ARCHITECTURES, IMAGES_SUFFIX
from tests.support.huggingface import (
    make_bert_folder,
    make_folder,
    make_gpt2_folder,
    make_vit_folder,
    model_input,
)
from worker.formats.registry import LoadedModel, read_model
from worker.models.huggingface.network import Blueprint
from worker.models.inputs import ImageInput, compute_logits

TEXTS = [
    (kind, name)
    for kind, names in ARCHITECTURES.items()
    for name in names
    if not name.endswith(IMAGES_SUFFIX)
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_bert_folder(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture
def folder(bert, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def read(folder: Path) -> LoadedModel:
    return read_model(model_input(folder))


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(("kind", "name"), TEXTS, ids=[name for _, name in TEXTS])
def test_each_architecture_answers_as_from_pretrained_does(tmp_path, kind, name):
    is_classifier = name.endswith("ForSequenceClassification")
    folder = make_folder(tmp_path / "model", kind, classes=3 if is_classifier else None)
    network = read(folder).network
    assert type(network.module).__name__ == name
    assert network.tasks == ("text-classification",) if is_classifier else ("language-modeling",)
    assert network.outputs == (3 if is_classifier else 300)
    auto = AutoModelForSequenceClassification if is_classifier else AutoModelForCausalLM
    theirs = auto.from_pretrained(folder, attn_implementation="eager", local_files_only=True).eval()
    theirs.config.pad_token_id = network.tokenizer.pad_id
    inputs = dict(network.inputs.blank(2))
    inputs["input_ids"] = torch.randint(2, 20, inputs["input_ids"].shape)
    with torch.no_grad():
        assert torch.equal(compute_logits(network.module, inputs), theirs(**inputs).logits)


@pytest.mark.parametrize(("kind", "name"), TEXTS, ids=[name for _, name in TEXTS])
def test_built_anew_it_has_the_same_form_and_other_weights(tmp_path, kind, name):
    loaded = read(make_folder(tmp_path / "model", kind, classes=None if "LM" in name else 2))
    torch.manual_seed(7)
    fresh = loaded.build()
    before, after = loaded.network.module.state_dict(), fresh.module.state_dict()
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    assert not any(torch.equal(before[n], t) for n, t in after.items() if t.ndim > 1)
    assert (fresh.inputs, fresh.outputs, fresh.tasks) == (
        loaded.network.inputs,
        loaded.network.outputs,
        loaded.network.tasks,
    )
    assert not fresh.module.training


def test_a_model_of_images_answers_as_from_pretrained_does_under_the_names_of_the_file(tmp_path):
    folder = make_vit_folder(tmp_path / "model", classes=7)
    loaded = read(folder)
    assert loaded.network.inputs == ImageInput((1, 8, 8))
    assert (loaded.network.tasks, loaded.network.outputs) == (("image-classification",), 7)
    named = {loaded.names_in_file.get(name, name) for name in loaded.tensor_names}
    assert named == load_file(folder / "model.safetensors").keys()
    theirs = AutoModelForImageClassification.from_pretrained(folder, attn_implementation="eager").eval()
    images = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(compute_logits(loaded.network.module, images), theirs(images).logits)
    fresh = loaded.build()
    assert (fresh.inputs, fresh.outputs, fresh.tokenizer) == (ImageInput((1, 8, 8)), 7, None)


def test_one_output_is_a_number(tmp_path):
    network = read(make_bert_folder(tmp_path / "model", classes=1)).network
    assert (network.tasks, network.outputs) == (("regression",), 1)


def test_shards_give_the_model_that_the_whole_file_gives(tmp_path):
    whole = read(make_gpt2_folder(tmp_path / "whole"))
    parts = read(make_gpt2_folder(tmp_path / "parts", max_shard_size="40KB"))
    assert whole.tensor_names == parts.tensor_names
    for name, tensor in whole.network.module.state_dict().items():
        assert torch.equal(tensor, parts.network.module.state_dict()[name])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_exactly_and_said(tmp_path, dtype):
    folder = make_bert_folder(tmp_path / "model", dtype=dtype)
    loaded = read(folder)
    stored = load_file(folder / "model.safetensors")
    for name, tensor in loaded.network.module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].float())
    (warning,) = loaded.warnings
    assert str(dtype).removeprefix("torch.") in warning
    assert "float32" in warning


def test_plain_float32_needs_no_warning(bert):
    assert read(bert).warnings == ()


def test_a_tied_weight_may_come_under_either_name_or_both(tmp_path):
    embedding = load_file(make_gpt2_folder(tmp_path / "a") / "model.safetensors")["transformer.wte.weight"]

    def both(tensors):
        tensors["lm_head.weight"] = embedding.clone()

    def only_head(tensors):
        tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")

    for change in (both, only_head):
        folder = make_gpt2_folder(tmp_path / change.__name__)
        edit_weights(folder, change)
        module = read(folder).network.module
        assert module.lm_head.weight is module.transformer.wte.weight
        assert torch.equal(module.lm_head.weight, embedding)


def test_tied_weights_of_different_values_are_refused(tmp_path):
    folder = make_gpt2_folder(tmp_path / "model")
    edit_weights(folder, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"] + 1}))
    with pytest.raises(ArchitectureMismatch, match="tie_word_embeddings"):
        read(folder)


def test_constants_that_older_versions_saved_are_left_out(folder):
    before = read(folder).tensor_names
    edit_weights(folder, lambda t: t.update({"bert.embeddings.position_ids": torch.arange(64)[None]}))
    assert read(folder).tensor_names == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("classifier.bias"), r"1 missing \(classifier.bias\)"),
        (lambda t: t.update(more=torch.zeros(1)), r"1 unexpected \(more\)"),
        (
            lambda t: t.update({"classifier.bias": torch.zeros(3)}),
            r"classifier.bias is \[3\], expected \[2\]",
        ),
        (
            lambda t: t.update({"classifier.bias": torch.zeros(2).int()}),
            "classifier.bias is I32, expected float32",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_what_to_do(folder, change, says):
    edit_weights(folder, change)
    with pytest.raises(ArchitectureMismatch, match=says + r".*save_pretrained"):
        read(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(folder, value):
    edit_weights(folder, lambda t: t["classifier.weight"][0, :2].fill_(value))
    with pytest.raises(NonfiniteWeights, match=r"classifier.weight holds 2"):
        read(folder)


def test_a_double_that_is_none_in_float32_is_refused_by_name(folder):
    edit_weights(
        folder, lambda t: t.update({"classifier.bias": torch.full((2,), 1e300, dtype=torch.float64)})
    )
    with pytest.raises(NonfiniteWeights, match=r"classifier.bias holds 2"):
        read(folder)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"hidden_size": 2**17, "num_attention_heads": 4}, ArchitectureMismatch, "of another shape"),
        ({"vocab_size": 2**22}, ArchitectureMismatch, "word_embeddings"),
        ({"num_hidden_layers": 3}, ArchitectureMismatch, "missing"),
        ({"hidden_size": 30}, InvalidModel, "cannot build"),
        ({"hidden_act": "os.system"}, InvalidModel, "cannot build"),
        ({"hidden_dropout_prob": "a"}, InvalidModel, "cannot build"),
        ({"pad_token_id": 10**6}, InvalidModel, "cannot build"),
        ({"architectures": ["BertModel"]}, UnknownArchitecture, "BertModel"),
        ({"model_type": "t5"}, UnknownArchitecture, "t5"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_before_memory_is_taken(folder, changes, error, says):
    edit_config(folder, **changes)
    with pytest.raises(error, match=says):
        read(folder)


def test_a_cut_of_a_network_far_larger_than_its_file_is_refused_before_memory_is_taken(folder, monkeypatch):
    def build(_):
        raise AssertionError("memory was taken")

    monkeypatch.setattr(Blueprint, "build_empty", build)
    edit_config(folder, secateur_cut={}, hidden_size=2**14, intermediate_size=2**14)
    with pytest.raises(ArchitectureMismatch, match=r"whole network of .* the files hold"):
        read(folder)


def test_a_padding_that_the_embedding_has_no_row_for_is_not_taken(tmp_path):
    folder = make_folder(tmp_path / "model", "gpt2", classes=2, pad_token_id=300)
    assert 0 <= read(folder).network.tokenizer.pad_id < 300


def test_a_model_that_no_batch_can_be_made_for_is_refused(tmp_path):
    changes = {"max_position_embeddings": 2, "pad_token_id": 0}
    folder = make_folder(tmp_path / "model", "roberta", classes=2, **changes)
    with pytest.raises(InvalidModel, match="no batch can be made"):
        read(folder)


def test_a_padding_that_is_said_not_to_be_there_is_found_elsewhere(tmp_path):
    network = read(make_folder(tmp_path / "model", "llama", classes=2, pad_token_id=None)).network
    assert network.module.config.pad_token_id == network.tokenizer.pad_id == 1


def test_fields_that_no_config_declares_decide_nothing(folder):
    plain = read(folder).network.module
    edit_config(folder, attn_implementation="somebody/kernel", auto_map={"AutoModel": "x.Y"}, use_cache=True)
    edit_config(folder, _attn_implementation_internal="somebody/kernel", name_or_path="somewhere")
    module = read(folder).network.module
    assert module.config._attn_implementation == plain.config._attn_implementation == "eager"
    assert not hasattr(module.config, "auto_map")


def test_a_file_that_is_no_safetensors_is_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(InvalidHeader):
        read(folder)


def test_a_tokenizer_that_cannot_be_read_is_refused(folder):
    (folder / "tokenizer.json").write_text('{"model": {"type": "Nothing"}}')
    with pytest.raises(InvalidModel, match=r"tokenizer.json"):
        read(folder)


@pytest.mark.parametrize("gone", ["config.json", "tokenizer.json"])
def test_a_folder_that_is_not_whole_is_refused(folder, gone):
    (folder / gone).unlink()
    with pytest.raises(InvalidModel, match=gone):
        read(folder)


def test_transformers_is_loaded_by_its_first_user_only():
    code = (
        "import sys, worker.runner, worker.formats.registry as f, worker.datasets.registry as d;"
        "import worker.models.registry as m;"
        "f.model_formats(), d.dataset_formats(), m.architectures();"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
