"""T5: one bias of positions for all layers, and zeros in its place where a text reads another one."""

from worker.pruning.removal.families.registry import Blocks, Family, Field, Size, register

_BIAS = {"relative_attention_bias": "holds the bias of relative positions that every later block adds"}

register(
    Family(
        "t5",
        sizes={
            "T5Attention": {
                "n_heads": Size("q", 0, over="key_value_proj_dim"),
                "inner_dim": Size("q", 0),
            }
        },
        constants={"T5Attention": {"n_heads": 1}},
        layers=(
            Blocks("encoder.block", count="num_layers", own_count="num_layers", kept=_BIAS),
            Blocks("decoder.block", count="num_decoder_layers", own_count="num_layers", kept=_BIAS),
        ),
        fields={
            "d_ff": Field(("T5DenseActDense", "T5DenseGatedActDense"), "wo.in_features"),
            "num_heads": Field(("T5Attention",), "n_heads"),
            "d_kv": Field(("T5Attention",), "key_value_proj_dim"),
        },
    )
)
