"""DistilBERT: BERT with other names for everything."""

from worker.pruning.removal.families.registry import Blocks, Family, Field, Size, register

register(
    Family(
        "distilbert",
        sizes={"DistilBertSelfAttention": {"n_heads": Size("q_lin", 0, over="attention_head_size")}},
        layers=(Blocks("transformer.layer", count="n_layers"),),
        fields={"hidden_dim": Field(("FFN",), "lin1.out_features")},
        inexpressible={
            "DistilBertSelfAttention": "its configuration derives the size of a head from dim / n_heads"
        },
    )
)
