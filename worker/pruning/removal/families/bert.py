"""BERT, whose code RoBERTa and ELECTRA repeat under names of their own."""

from worker.pruning.removal.families.registry import Blocks, Family, Field, Size, register


def declare_encoder(model_type: str, prefix: str) -> Family:
    """Declare a family that repeats BERT's code, with another prefix to the names of its classes."""
    attentions = (f"{prefix}SelfAttention", f"{prefix}CrossAttention")
    heads = {
        "num_attention_heads": Size("query", 0, over="attention_head_size"),
        "all_head_size": Size("query", 0),
    }
    return Family(
        model_type,
        sizes=dict.fromkeys(attentions, heads),
        layers=(Blocks("encoder.layer", count="num_hidden_layers"),),
        fields={"intermediate_size": Field((f"{prefix}Intermediate",), "dense.out_features")},
        inexpressible=dict.fromkeys(
            attentions,
            "its configuration derives the size of a head from hidden_size / num_attention_heads",
        ),
    )


register(declare_encoder("bert", "Bert"))
