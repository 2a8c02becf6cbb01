"""Llama, whose code Mistral and Qwen repeat under names of their own: queries may share keys."""

from worker.pruning.removal.families.registry import Blocks, Family, Field, Queries, Size, register


def declare_decoder(model_type: str, prefix: str, *, listed: tuple[str, ...] = ()) -> Family:
    """Declare a family that repeats Llama's code, with another prefix to the names of its classes."""
    attention, mlp = f"{prefix}Attention", f"{prefix}MLP"
    return Family(
        model_type,
        sizes={
            attention: {"num_key_value_groups": Size("q_proj", 0, per="k_proj")},
            mlp: {"intermediate_size": Size("gate_proj", 0)},
        },
        queries={attention: Queries("q_proj", "k_proj", "o_proj", head_size="head_dim")},
        layers=(Blocks("layers", count="num_hidden_layers", listed=listed),),
        fields={
            "intermediate_size": Field((mlp,), "intermediate_size"),
            "num_attention_heads": Field((attention,), "q_proj.out_features", over="head_dim"),
            "num_key_value_heads": Field((attention,), "k_proj.out_features", over="head_dim"),
            "head_dim": Field((attention,), "head_dim"),
        },
    )


register(declare_decoder("llama", "Llama"))
