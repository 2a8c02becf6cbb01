"""`make bench-gpt`: a small GPT-2 on tinyshakespeare, 50 % at once: wanda, sparsegpt and magnitude.

The network (4 layers, hidden 128) and its tokenizer (1,024 pieces) are trained here first, some minutes on
one thread, and kept. Nine tenths of the text train, the last tenth tests; perplexity is per token.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.data_folder import NoBenchmarkData, find_data_folder, find_file
from benchmarks.follow import Upload
from benchmarks.rows import Row, run_rows, show_rows

OUTPUT = Path("bench-output") / "gpt"
_PIECES = 1_024
_WINDOW = 128
_STEPS = 2_500
_BATCH = 16
_RATE = 1e-3


def main() -> int:
    """Train, prune, and print the table; returns 1 when the published order is broken, 2 without the data."""
    torch.set_num_threads(1)
    try:
        texts = _split(find_file(find_data_folder(), "tinyshakespeare.txt").read_text(), OUTPUT / "inputs")
    except NoBenchmarkData as error:
        print(f"bench-gpt: {error}", file=sys.stderr)
        return 2
    model = _prepare_model(texts["train"], OUTPUT / "inputs" / "gpt2")
    manifest = {
        "name": "tinyshakespeare",
        "task": "language-modeling",
        "format": "text",
        "block_tokens": _WINDOW,
    }
    rows = [
        Row(name, "gpt2", "shakespeare", _spec(name))
        for name in ("sparsegpt", "wanda", "magnitude", "random")
    ]
    results = run_rows(
        rows, models={"gpt2": model}, datasets={"shakespeare": Upload(texts, manifest)}, output=OUTPUT
    )
    show_rows(results, title="Perplexity of a small GPT-2, 50 % of each matrix, no recovery", is_share=False)
    finals = [result.values("final")[0] for result in results]
    is_ordered = finals == sorted(finals)
    Console().print("sparsegpt < wanda < magnitude < random: " + ("as published" if is_ordered else "NOT SO"))
    return 0 if is_ordered else 1


def _spec(criterion: str) -> dict[str, Any]:  # Any: JSON
    return {
        "recipe": {
            "criterion": {"name": criterion},
            "allocation": {"name": "uniform"},
            "target": {"metric": "sparsity", "value": 0.5},
        },
        "evaluation": {"latency": None},
    }


def _split(text: str, folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    cut = len(text) * 9 // 10
    files = {"train": folder / "train.txt", "test": folder / "test.txt"}
    files["train"].write_text(text[:cut])
    files["test"].write_text(text[cut:])
    return files


def _prepare_model(train: Path, folder: Path) -> Upload:
    """Train the tokenizer and the network unless they lie there already."""
    if not (folder / "model.safetensors").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = _train_tokenizer(train)
        tokenizer.save(str(folder / "tokenizer.json"))
        network = _train_network(torch.tensor(tokenizer.encode(train.read_text()).ids))
        network.save_pretrained(folder)
    names = ("config.json", "model.safetensors", "tokenizer.json")
    return Upload(
        {name: folder / name for name in names}, {"name": "GPT-2, 4 layers of 128", "format": "huggingface"}
    )


def _train_tokenizer(train: Path) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train([str(train)], trainers.BpeTrainer(vocab_size=_PIECES, initial_alphabet=alphabet))
    return tokenizer


def _train_network(tokens: torch.Tensor) -> GPT2LMHeadModel:
    """Train on random windows of the tokens [t], AdamW with a cosine down to zero."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=_PIECES,
        n_positions=_WINDOW,
        n_embd=128,
        n_layer=4,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    network = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.01)
    decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS, pct_start=0.05)
    for _ in track(range(_STEPS), description="training GPT-2"):
        starts = torch.randint(len(tokens) - _WINDOW, (_BATCH, 1))
        windows = tokens[starts + torch.arange(_WINDOW)]  # [b, t]
        logits = network(input_ids=windows).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        decay.step()
    return network.eval()


if __name__ == "__main__":
    sys.exit(main())
