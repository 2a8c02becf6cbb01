"""RoBERTa: the code of BERT under other names."""

from worker.pruning.removal.families.bert import declare_encoder
from worker.pruning.removal.families.registry import register

register(declare_encoder("roberta", "Roberta"))
