"""Tiny random models of transformers with tokenizers of their own, saved as a user would save them."""

import csv
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import httpx
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from worker.measure.size import digest_file
from worker.protocol import ModelInput

GOOD, BAD = ("fine", "great", "lovely", "bright"), ("awful", "dull", "grim", "poor")
_FILLERS = ("the film was", "a", "we found it", "what a day so", "this is", "really quite")
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
_NAMES: dict[str, dict[str, str]] = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    },
    "gpt2": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
    },
}
_EXTRA: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 32},
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
}
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


def sentences(n: int = 64) -> list[tuple[str, int]]:
    """Return texts whose label (1 = good) a single word decides."""
    rows = []
    for i in range(n):
        words = GOOD if i % 2 else BAD
        word = words[(i // 2) % len(words)]
        rows.append((f"{_FILLERS[i % len(_FILLERS)]} {word} {_FILLERS[(i * 5) % len(_FILLERS)]}", i % 2))
    return rows


def make_bert_folder(path: Path, classes: int = 2, **changes: Any) -> Path:
    """Save a random BERT that tells `classes` apart, and its tokenizer."""
    return make_folder(path, "bert", classes=classes, **changes)


def make_gpt2_folder(path: Path, **changes: Any) -> Path:
    """Save a random GPT-2 for language modeling, with tied embeddings, and its tokenizer."""
    return make_folder(path, "gpt2", **changes)


def make_llama_folder(path: Path, **changes: Any) -> Path:
    """Save a random Llama with grouped queries, for language modeling, and its tokenizer."""
    return make_folder(path, "llama", **changes)


def make_vit_folder(path: Path, classes: int = 10, **changes: Any) -> Path:
    """Save a random ViT for grey images of 8 by 8 that tells `classes` apart, as transformers names it."""
    given = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    given |= {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": classes}
    config = CONFIG_MAPPING["vit"].from_dict(given | changes)
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(config).save_pretrained(path)
    (path / "preprocessor_config.json").write_text('{"do_resize": true, "size": 8}')
    return path


def make_folder(
    path: Path,
    model_type: str,
    *,
    classes: int | None = None,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    **changes: Any,
) -> Path:
    """Save a random model of any supported type; without classes it models language."""
    tokenizer = _train_bert_tokenizer() if model_type not in DECODERS else _train_byte_tokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **_special(model_type))
    sizes = {_NAMES.get(model_type, {}).get(name, name): value for name, value in _SIZES.items()}
    ids = {"pad_token_id": fast.pad_token_id, "bos_token_id": 1, "eos_token_id": 1}
    given = sizes | _EXTRA.get(model_type, {}) | {"vocab_size": tokenizer.get_vocab_size()} | ids
    if classes is not None:
        given["num_labels"] = classes
    config = CONFIG_MAPPING[model_type].from_dict(given | changes)
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if classes is None else AutoModelForSequenceClassification
    model = auto.from_config(config).to(dtype)
    model.save_pretrained(path, max_shard_size=max_shard_size)
    fast.save_pretrained(path)
    return path


def model_input(folder: Path) -> ModelInput:
    """Describe a folder as an upload that lies on the local disk."""
    files = {("weights" if p.name == "model.safetensors" else p.name): p for p in sorted(folder.iterdir())}
    sha256 = {role: digest_file(file) for role, file in files.items()}
    return ModelInput(format="huggingface", architecture={}, files=files, sha256=sha256)


def _special(model_type: str) -> dict[str, str]:
    if model_type in DECODERS:
        return {"eos_token": "<end>"}
    return {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def _train_bert_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(_texts(), trainers.WordLevelTrainer(special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


def _train_byte_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=["<pad>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        vocab_size=300,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _texts() -> Iterable[str]:
    return [text for text, _ in sentences()]


def upload_folder(client: httpx.Client, folder: Path, **changes: Any) -> httpx.Response:
    """Upload a folder over HTTP, every file of it."""
    manifest = {"name": folder.name, "format": "huggingface"} | changes
    files = [("file", (path.name, path.read_bytes())) for path in sorted(folder.iterdir())]
    return client.post("/v1/models", data={"manifest": json.dumps(manifest)}, files=files)


def upload_texts(client: httpx.Client, files: dict[str, bytes], **changes: Any) -> httpx.Response:
    """Upload one file a split over HTTP; csv for text classification unless told otherwise."""
    manifest = {
        "name": "texts",
        "task": "text-classification",
        "format": "csv",
        "splits": {split: f"{split}.data" for split in files},
    } | changes
    parts = [("file", (f"{split}.data", data)) for split, data in files.items()]
    return client.post("/v1/datasets", data={"manifest": json.dumps(manifest)}, files=parts)


def csv_bytes(rows: Iterable[tuple[str, Any]], names: tuple[str, str] = ("text", "label")) -> bytes:
    """Write rows as csv."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([names, *rows])
    return text.getvalue().encode()
