"""GPT-2: fused queries, keys and values, which attention splits by a stored size."""

from worker.pruning.removal.families.registry import Blocks, Family, Field, Size, register

register(
    Family(
        "gpt2",
        sizes={
            "GPT2Attention": {
                "split_size": Size("c_proj", 0),
                "num_heads": Size("c_proj", 0, over="head_dim"),
            }
        },
        layers=(Blocks("h", count="n_layer"),),
        fields={"n_inner": Field(("GPT2MLP",), "c_fc.nf")},
        inexpressible={"GPT2Attention": "its configuration derives the size of a head from n_embd / n_head"},
    )
)
