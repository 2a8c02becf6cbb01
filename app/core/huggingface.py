"""What is taken of a Hugging Face model folder: file names, model types, architectures."""

import re
from collections.abc import Mapping

CONFIG = "config.json"
# In a config: the tensors are parts of those of the architecture, as a job cut them out.
CUT_FIELD = "secateur_cut"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
# Kept and given back; of these, only the first is read.
PREPROCESSOR = "preprocessor_config.json"
OPTIONAL = (
    TOKENIZER_CONFIG,
    PREPROCESSOR,
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
# The role of a single file of weights, as for every other format.
WEIGHTS_ROLE = "weights"

CLASSIFICATION_SUFFIX = "ForSequenceClassification"
# What these take are images, not texts: they have no tokenizer.
IMAGES_SUFFIX = "ForImageClassification"
# model_type → architectures. Each is built, pruned and exported in the tests, from a small random model.
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "bert": ("BertForSequenceClassification",),
    "distilbert": ("DistilBertForSequenceClassification",),
    "electra": ("ElectraForSequenceClassification",),
    "gpt2": ("GPT2LMHeadModel", "GPT2ForSequenceClassification"),
    "llama": ("LlamaForCausalLM", "LlamaForSequenceClassification"),
    "mistral": ("MistralForCausalLM", "MistralForSequenceClassification"),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2ForSequenceClassification"),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3ForSequenceClassification"),
    "roberta": ("RobertaForSequenceClassification",),
    "vit": ("ViTForImageClassification",),
}


def is_taken(name: str) -> bool:
    """Tell whether a file of that name belongs to an upload."""
    return name in (CONFIG, TOKENIZER, WEIGHTS, INDEX, *OPTIONAL) or SHARD.fullmatch(name) is not None


def role_of(name: str) -> str:
    """Return the role under which a file of that name is kept."""
    return WEIGHTS_ROLE if name == WEIGHTS else name


def name_of(role: str) -> str:
    """Return the name of the file that has a role."""
    return WEIGHTS if role == WEIGHTS_ROLE else role
