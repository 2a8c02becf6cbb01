"""Whose fault it is when a network of transformers cannot be built, and whether its users get it."""

import json
from pathlib import Path

import pytest
import torch

from app.core.errors import ExportMismatch, InvalidModel
from tests.support.huggingface import make_folder, make_vit_folder, model_input
from worker.formats.huggingface import make_blueprint
from worker.formats.registry import read_model
from worker.models.huggingface import network
from worker.models.inputs import draw_inputs
from worker.models.tokenizer import TextTokenizer


def test_a_config_that_cannot_be_is_the_user_s_fault():
    with pytest.raises(InvalidModel, match="ValueError: hidden_size"):
        network._guarded(lambda: _raise(ValueError("hidden_size is no multiple of the heads")))


def test_a_machine_without_room_is_not():
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        network._guarded(lambda: torch.empty(2**58, dtype=torch.uint8))


def test_nor_is_it_the_tokenizer_s():
    class Full:
        def num_special_tokens_to_add(self, are_pairs: bool) -> int:
            return 0

        def no_truncation(self) -> None: ...

        def encode(self, text: str, *, add_special_tokens: bool) -> None:
            raise MemoryError

    with pytest.raises(MemoryError):
        TextTokenizer(Full(), pad_id=0, max_tokens=None).encode_document("a text")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "roberta"])
def test_a_folder_that_from_pretrained_gives_as_it_is_passes(tmp_path, kind):
    check_from_pretrained(make_folder(tmp_path / "model", kind, classes=3))


def test_so_does_one_whose_padding_its_tokenizer_alone_knows(tmp_path):
    check_from_pretrained(make_folder(tmp_path / "model", "llama", classes=3, pad_token_id=None))


def test_so_does_one_of_images(tmp_path):
    check_from_pretrained(make_vit_folder(tmp_path / "model"))


def test_so_does_one_with_what_older_versions_wrote_without_meaning(tmp_path):
    folder = make_folder(tmp_path / "model", "bert", classes=3)
    edit_config(folder, _name_or_path="bert", _commit_hash=None, auto_map={}, trust_remote_code=False)
    edit_config(folder, _attn_implementation_autoset=True, quantization_config=None, finetuning_task="sst2")
    check_from_pretrained(folder)


def test_a_folder_of_the_same_weights_that_answers_otherwise_is_found(tmp_path):
    folder = make_folder(tmp_path / "model", "llama", classes=3, initializer_range=0.5)
    edit_config(folder, is_causal=False)
    with pytest.raises(ExportMismatch, match="from_pretrained gives a model that answers otherwise"):
        check_from_pretrained(folder)


def test_a_folder_of_other_weights_is_found(tmp_path):
    folder = make_folder(tmp_path / "model", "bert", classes=3)
    loaded = read_model(model_input(folder)).network
    with torch.no_grad():
        loaded.module.classifier.bias += 1
    blueprint = make_blueprint(json.loads((folder / "config.json").read_text()))
    with pytest.raises(ExportMismatch, match=r"another classifier.bias than"):
        blueprint.check_from_pretrained(
            folder, loaded.module, draw_inputs(loaded.inputs, torch.device("cpu"))
        )


def check_from_pretrained(folder: Path) -> None:
    loaded = read_model(model_input(folder)).network
    blueprint = make_blueprint(json.loads((folder / "config.json").read_text()))
    blueprint.check_from_pretrained(folder, loaded.module, draw_inputs(loaded.inputs, torch.device("cpu")))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _raise(error: Exception) -> None:
    raise error
