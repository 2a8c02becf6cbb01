"""Build models of transformers from the JSON of their config, without its hub, its caches or foreign code."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.initialization import no_init_weights
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from app.core.errors import ExportMismatch, InvalidModel, UnknownArchitecture
from app.core.huggingface import ARCHITECTURES, CLASSIFICATION_SUFFIX, IMAGES_SUFFIX
from worker.models.inputs import Inputs, TextInput, compute_logits
from worker.models.registry import Network, image_network
from worker.models.tokenizer import TextTokenizer
from worker.numerics import is_out_of_memory

Config = Mapping[str, JsonValue]
# Written by older versions; the config's class turns them into its own fields.
_OLD_FIELDS = ("num_labels", "rope_scaling", "rope_theta")
# Read from a config where it is there, though its class does not declare it.
_UNDECLARED = {"vit": ("head_dim",)}
# Explicit matrix products: deterministic, and every multiply-accumulate is seen when they are counted.
_ATTENTION = "eager"
_PASSED = ("input_ids", "attention_mask", "token_type_ids")
_TYPED = ("bert", "electra")
# Position 0 of a text is number padding_idx + 1 in these.
_SHIFTED_POSITIONS = ("roberta",)
_LEAST_POSITIONS = 2
_TOLERANCE = 1e-4


class Blueprint:
    """A config that was checked against its architecture, from which modules are built."""

    def __init__(self, config: Config) -> None:
        model_type, architectures = config.get("model_type"), config.get("architectures")
        known = ARCHITECTURES.get(str(model_type), ())
        if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in known:
            raise UnknownArchitecture(
                f"the model type {model_type!r} with the architectures {architectures!r} is not supported"
            )
        self.architecture = str(architectures[0])
        self.takes_images = self.architecture.endswith(IMAGES_SUFFIX)
        self._is_classifier = self.architecture.endswith(CLASSIFICATION_SUFFIX)
        self._auto = _choose_auto(self.architecture)
        self._config = _guarded(lambda: _make_config(str(model_type), config))

    def build_on_meta(self) -> PreTrainedModel:
        """Build the module without memory for its weights, to compare names and shapes."""
        with torch.device("meta"):
            return self._build()

    def build_empty(self) -> PreTrainedModel:
        """Build the module with weights of arbitrary values, to be overwritten."""
        with no_init_weights():
            module = self._build()
        # Left out along with the random weights.
        module.tie_weights()
        return module

    def build_fresh(self) -> PreTrainedModel:
        """Build the module with random weights, as transformers initialises them."""
        return self._build()

    def make_network(self, module: PreTrainedModel, tokenizer: TextTokenizer | None) -> Network:
        """Say what a module takes and serves; it comes back in evaluation mode. Images need no tokenizer.

        Raises InvalidModel where no text could be given to it.
        """
        config = module.config
        if tokenizer is None:
            size = config.image_size
            return image_network(module.eval(), (config.num_channels, size, size), config.num_labels)
        # A classifier over the last token needs to know which tokens are padding.
        config.pad_token_id = tokenizer.pad_id
        module.eval()
        embedding = module.get_input_embeddings()
        positions = _count_positions(config)
        if positions < _LEAST_POSITIONS or tokenizer.pad_id >= embedding.num_embeddings:
            raise InvalidModel(
                f"the model takes texts of at most {positions} tokens, its padding is the token "
                f"{tokenizer.pad_id} of {embedding.num_embeddings}: no batch can be made for it"
            )
        types = config.type_vocab_size if config.model_type in _TYPED else 0
        inputs = TextInput(
            max_tokens=min(positions, tokenizer.max_tokens or positions),
            vocabulary=embedding.num_embeddings,
            names=_PASSED if types else _PASSED[:2],
            types=types,
        )
        if not self._is_classifier:
            return Network(module, inputs, embedding.num_embeddings, ("language-modeling",), tokenizer)
        tasks = ("regression",) if config.num_labels == 1 else ("text-classification",)
        return Network(module, inputs, config.num_labels, tasks, tokenizer)

    def check_from_pretrained(self, folder: Path, module: PreTrainedModel, inputs: Inputs) -> None:
        """Load a folder as its user will, by its own config, which was checked when it was uploaded.

        Raises ExportMismatch unless it gives this module's weights, and its answers to the inputs.
        """
        loaded = self._auto.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=_ATTENTION,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        found = loaded.state_dict()
        for name, tensor in module.state_dict().items():
            if name not in found or not torch.equal(found[name].cpu(), tensor.cpu()):
                raise ExportMismatch(f"from_pretrained gives another {name} than the exported file holds")
        if not self.takes_images:
            # A user whose config does not say what is padding has to say it too.
            loaded.config.pad_token_id = module.config.pad_token_id
        with torch.inference_mode():
            theirs, ours = compute_logits(loaded.eval(), inputs), compute_logits(module.eval(), inputs)
        is_close = theirs.shape == ours.shape and torch.allclose(
            theirs, ours, rtol=_TOLERANCE, atol=_TOLERANCE * float(ours.abs().mean()), equal_nan=True
        )
        if not is_close:
            raise ExportMismatch(
                "from_pretrained gives a model that answers otherwise: config.json has a field that changes "
                "what it computes"
            )

    def _build(self) -> PreTrainedModel:
        module: PreTrainedModel = _guarded(
            lambda: self._auto.from_config(
                deepcopy(self._config), attn_implementation=_ATTENTION, trust_remote_code=False
            )
        )
        if type(module).__name__ != self.architecture:
            raise UnknownArchitecture(f"the config gives a {type(module).__name__}, not {self.architecture}")
        # A cache of keys and values is of use for writing text, which nobody does here.
        module.config.use_cache = False
        return module


def list_saved_names(module: PreTrainedModel) -> dict[str, str]:
    """Return what save_pretrained calls each tensor in a file, where the module calls it something else."""
    saved = {}
    for name, tensor in module.state_dict().items():
        # One at a time: which name came of which is not said.
        (in_file,) = revert_weight_conversion(module, {name: tensor})
        if in_file != name:
            saved[name] = in_file
    return saved


def _choose_auto(architecture: str) -> Any:  # Any: an Auto class; transformers is skipped by the type checker
    if architecture.endswith(IMAGES_SUFFIX):
        return AutoModelForImageClassification
    if architecture.endswith(CLASSIFICATION_SUFFIX):
        return AutoModelForSequenceClassification
    return AutoModelForCausalLM


def _make_config(model_type: str, config: Config) -> PreTrainedConfig:
    """Make the config of what its class declares; whatever else the file holds decides nothing."""
    cls = CONFIG_MAPPING[model_type]
    known = {*cls.__dataclass_fields__, *cls.attribute_map, *_OLD_FIELDS, *_UNDECLARED.get(model_type, ())}
    known -= {"dtype", "transformers_version"}
    given = {name: deepcopy(value) for name, value in config.items() if name in known}
    made = cls.from_dict(given)
    made.dtype = torch.float32
    return made


def _count_positions(config: PreTrainedConfig) -> int:
    shift = config.pad_token_id + 1 if config.model_type in _SHIFTED_POSITIONS else 0
    return int(config.max_position_embeddings) - shift


def _guarded(
    build: Callable[[], object],
) -> Any:  # Any: whatever transformers, which is skipped by the type checker, returns
    # The values of a config come from anywhere, and reach code that checks them in a hundred places.
    try:
        return build()
    except Exception as error:
        if is_out_of_memory(error):
            # The machine's fault, not the config's.
            raise
        reason = str(error).strip().partition("\n")[0][:300]
        raise InvalidModel(
            f"transformers cannot build a model from config.json: {type(error).__name__}: {reason}"
        ) from error
