"""ViT, whose configuration may say how large a head is."""

from worker.pruning.removal.families.registry import Blocks, Family, Field, Size, register

register(
    Family(
        "vit",
        sizes={"ViTAttention": {"num_attention_heads": Size("q_proj", 0, over="head_dim")}},
        layers=(Blocks("layers", count="num_hidden_layers"),),
        fields={
            "intermediate_size": Field(("ViTMLP",), "fc1.out_features"),
            "num_attention_heads": Field(("ViTAttention",), "num_attention_heads"),
            "head_dim": Field(("ViTAttention",), "head_dim"),
        },
    )
)
