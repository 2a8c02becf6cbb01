"""Prune inside the Trainer of transformers: one argument more."""

import random
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from worker.pruning.callbacks.transformers import PruningCallback

GOOD, BAD, OTHER = range(1, 6), range(6, 11), range(11, 40)


def sentences(count: int, *, seed: int) -> list[dict[str, object]]:
    """Make sentences of 12 words; the label says whether good words are more than bad ones."""
    chance = random.Random(seed)
    made: list[dict[str, object]] = []
    while len(made) < count:
        words = [chance.choice([*GOOD, *BAD, *OTHER]) for _ in range(12)]
        balance = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
        if balance:
            made.append({"input_ids": words, "labels": int(balance > 0)})
    return made


def main() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    model = BertForSequenceClassification(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=5,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=2,
            learning_rate=3e-3,
            logging_steps=40,
            save_strategy="epoch",
            eval_strategy="epoch",
            load_best_model_at_end=True,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        recipe = {
            "target": {"value": 0.8},
            "schedule": {"name": "cubic"},
            "layers": [{"match": "classifier", "set": {"exclude": True}}],
        }
        pruning = PruningCallback(recipe)
        trainer = Trainer(
            model,
            arguments,
            train_dataset=sentences(1024, seed=0),
            eval_dataset=sentences(256, seed=1),
            callbacks=[pruning],
        )
        trainer.train()

    masks = pruning.pruner.masks
    zeros = sum(int((model.get_parameter(name) == 0).sum()) for name in masks)
    print(f"evaluation loss {trainer.state.best_metric:.3f}, of the best checkpoint at the full sparsity")
    print(f"{zeros} of {masks.numel} weights are zero: sparsity {masks.sparsity:.4f}")


if __name__ == "__main__":
    main()
