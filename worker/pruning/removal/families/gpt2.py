"""GPT-2: fused queries, keys and values, which attention splits by a stored size."""

from worker.pruning.removal.families.registry import Family, Size, register

register(
    Family(
        "gpt2",
        sizes={
            "GPT2Attention": {
                "split_size": Size("c_proj", 0),
                "num_heads": Size("c_proj", 0, over="head_dim"),
            }
        },
        layers=("transformer.h",),
    )
)
