"""Check the config.json of a Hugging Face model: a known architecture of sane size that needs no code."""

import json
from collections.abc import Iterator

from pydantic import JsonValue, ValidationError

from app.core.errors import InvalidModel, UnknownArchitecture
from app.core.huggingface import ARCHITECTURES, CLASSIFICATION_SUFFIX, CONFIG, CUT_FIELD, IMAGES_SUFFIX
from app.services.faults import from_pydantic, refusal
from app.services.manifests import Cut

Config = dict[str, JsonValue]
# What would make transformers fetch or run code, or read weights in another way than they lie in the file.
_REFUSED = (
    "adapter",
    "attn_implementation",
    "auto_map",
    "compression_config",
    "custom_pipelines",
    "experts_implementation",
    "fusion_config",
    "kernel_config",
    "peft_config",
    "per_layer_config",
    "quantization_config",
    "sparsity_config",
    "transformers_weights",
    "trust_remote_code",
    "use_kernels",
)
# Each token of these sees those before it alone.
_DECODERS = ("gpt2", "llama", "mistral", "qwen2", "qwen3")
_PRIVATE_TAKEN = ("_attn_implementation_autoset", "_commit_hash", "_name_or_path", "_num_labels")
_MAX_INTEGER = 2**31 - 1
# The largest published models of these families are far below.
_LARGEST = {
    2**17: (
        "dim",
        "embedding_size",
        "head_dim",
        "hidden_dim",
        "hidden_size",
        "intermediate_size",
        "n_embd",
        "n_inner",
    ),
    512: ("n_layer", "n_layers", "num_hidden_layers"),
    1024: ("n_head", "n_heads", "num_attention_heads", "num_key_value_heads", "type_vocab_size"),
    2**22: ("vocab_size", "max_position_embeddings", "n_positions"),
    100_000: ("num_labels",),
    64: ("num_channels",),
    8192: ("image_size", "patch_size"),
}
# Attention compares each patch with every other: those of an image of 1,024 by 16 are 4,096.
_MOST_PATCHES = 4096
# What a ViT has by default.
_PATCHES: dict[str, JsonValue] = {"image_size": 224, "patch_size": 16}
_LAYER_COUNTS = ("n_layer", "n_layers", "num_hidden_layers")


def check_config(config: Config, *, tensors: int) -> tuple[str, str]:
    """Return the model type and the architecture of a sound config; `tensors` is how many the files hold.

    Raises UnknownArchitecture or InvalidModel, naming the field.
    """
    _refuse_code(config)
    found = _find_architecture(config)
    for at, value in _integers(config, "config.json"):
        if abs(value) > _MAX_INTEGER:
            raise InvalidModel(f"{at} is {value}; at most {_MAX_INTEGER} makes sense")
    _check_computation(config, found[0])
    _check_sizes(config, tensors)
    _check_labels(config, found[1])
    _check_cut(config.get(CUT_FIELD))
    if found[1].endswith(IMAGES_SUFFIX):
        _check_patches(config)
    return found


def _refuse_code(config: Config) -> None:
    for name, value in config.items():
        is_private = name.startswith("_") and name not in _PRIVATE_TAKEN
        if (name in _REFUSED or is_private) and value not in (None, False, {}, []):
            raise InvalidModel(
                f"config.json has {name!r}: code that comes with a model or is fetched for it is never run, "
                "and only plain weights are read; save the plain model with save_pretrained and upload that"
            )
    for name in ("pruned_heads", "add_cross_attention", "is_encoder_decoder"):
        if config.get(name):
            raise InvalidModel(
                f"config.json has {name!r}, which is not supported; expected it empty or false"
            )


def _find_architecture(config: Config) -> tuple[str, str]:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise UnknownArchitecture(
            f"config.json has the model_type {_show(model_type)}; there are: {', '.join(ARCHITECTURES)}"
        )
    architectures = config.get("architectures")
    known = ARCHITECTURES[model_type]
    if not isinstance(architectures, list) or len(architectures) != 1 or architectures[0] not in known:
        raise UnknownArchitecture(
            f"config.json has the architectures {_show(architectures)}; for {model_type} expected one of: "
            f"{', '.join(known)}"
        )
    return model_type, str(architectures[0])


def _check_computation(config: Config, model_type: str) -> None:
    # transformers reads these where they are there, null too; the service computes in one way only.
    computed = {"is_causal": model_type in _DECODERS or bool(config.get("is_decoder")), "return_dict": True}
    for name, expected in computed.items():
        if name in config and config[name] is not expected:
            raise InvalidModel(
                f"config.json has {name!r}: such a model is computed with {str(expected).lower()} here; "
                f"expected that or no such field, found {_show(config[name])}"
            )


def _check_sizes(config: Config, tensors: int) -> None:
    for most, names in _LARGEST.items():
        for name in names:
            value = config.get(name)
            if value is not None and (type(value) is not int or not 1 <= value <= most):
                raise InvalidModel(
                    f"config.json has {name!r}: expected an integer from 1 to {most}, found {_show(value)}"
                )
    for name in _LAYER_COUNTS:
        layers = config.get(name)
        if isinstance(layers, int) and layers > tensors:
            raise InvalidModel(f"config.json asks for {layers} layers, the files hold {tensors} tensors")


def _check_patches(config: Config) -> None:
    image, patch = (config.get(name, default) for name, default in _PATCHES.items())
    if not isinstance(image, int) or not isinstance(patch, int):
        found = ", ".join(f"{name} {_show(config.get(name))}" for name in _PATCHES)
        raise InvalidModel(f"config.json: expected integers, found {found}")
    patches = (image // patch) ** 2
    if not 1 <= patches <= _MOST_PATCHES:
        raise InvalidModel(
            f"config.json cuts images of {image} pixels into {patches} patches of {patch}; from 1 to "
            f"{_MOST_PATCHES} are taken"
        )


def _check_labels(config: Config, architecture: str) -> None:
    for name in ("id2label", "label2id"):
        value = config.get(name)
        if value is not None and (
            not isinstance(value, dict) or not 1 <= len(value) <= _largest("num_labels")
        ):
            raise InvalidModel(
                f"config.json has {name!r}: expected an object of labels, found {_show(value)}"
            )
    ids = config.get("id2label")
    if isinstance(ids, dict) and set(ids) != {str(i) for i in range(len(ids))}:
        raise InvalidModel(f"config.json has 'id2label' whose ids are not 0 to {len(ids) - 1}")
    is_classifier = architecture.endswith((CLASSIFICATION_SUFFIX, IMAGES_SUFFIX))
    if is_classifier and config.get("problem_type") == "multi_label_classification":
        raise InvalidModel(
            "config.json asks for several labels a sample; one class, or one number, is supported"
        )


def _check_cut(cut: JsonValue) -> None:
    if cut is None:
        return
    try:
        Cut.model_validate_json(json.dumps(cut))
    except ValidationError as error:
        raise refusal(InvalidModel, from_pydantic(error, at=f"/{CUT_FIELD}"), what=CONFIG) from error


def _largest(name: str) -> int:
    return next(most for most, names in _LARGEST.items() if name in names)


def _integers(value: JsonValue, at: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _integers(item, f"{at} {name[:100]!r}")
    elif isinstance(value, list):
        for item in value:
            yield from _integers(item, at)
    elif isinstance(value, int):
        yield at, value


def _show(value: JsonValue) -> str:
    return ascii(value)[:100]
