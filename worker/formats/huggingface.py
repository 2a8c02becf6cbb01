"""Read models given as a Hugging Face folder: config.json, safetensors, for text tokenizer.json."""

import importlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import nn

from app.core.errors import ArchitectureMismatch, InvalidModel
from app.core.huggingface import CONFIG, CUT_FIELD, TOKENIZER, TOKENIZER_CONFIG
from worker.formats.cut import check_runs, check_whole, fit_module
from worker.formats.registry import LoadedModel, register
from worker.formats.weights import (
    FLOATS,
    TensorForm,
    check_finite,
    check_structure,
    form_of,
    read_forms,
)
from worker.models.registry import Network
from worker.models.tokenizer import TextTokenizer, read_tokenizer
from worker.protocol import ModelInput

if TYPE_CHECKING:
    from transformers.modeling_utils import PreTrainedModel

    from worker.models.huggingface.network import Blueprint

_WORKING = "float32"
# Constants that older versions saved as if they were weights, and that a config decides.
_CONSTANTS = re.compile(r".*(\.position_ids|\.rotary_emb\.inv_freq|h\.[0-9]+\.attn\.(bias|masked_bias))")
_HINT = (
    "; saving the model anew with a current transformers, from_pretrained(...).save_pretrained(folder), "
    "gives its tensors the names that are expected"
)


@register("huggingface", summary="A folder of transformers: config.json, safetensors; for text, a tokenizer.")
def read_huggingface(model: ModelInput) -> LoadedModel:
    """Build the config's architecture, load the weights into it as float32, and read its tokenizer.

    Raises InvalidModel, UnknownArchitecture, InvalidHeader, ArchitectureMismatch or NonfiniteWeights.
    """
    _require(CONFIG, model)
    config = json.loads(model.files[CONFIG].read_bytes())
    blueprint = make_blueprint(config)
    tokenizer = None if blueprint.takes_images else _read_tokenizer(model, config)
    in_file = _read_forms(model.weight_files)
    # Before there is memory for any weight: a config may ask for more than any machine has.
    meta = blueprint.build_on_meta()
    names_in_file = _list_names_in_file(meta, in_file)
    own_names = {in_file: name for name, in_file in names_in_file.items()}
    forms = {own_names.get(name, name): form for name, form in in_file.items()}
    cut, shapes = config.get(CUT_FIELD), {name: form.shape for name, form in forms.items()}
    check_whole(meta, cut, shapes)
    fit_module(meta, cut, shapes)
    _check_forms(meta, forms)
    module = blueprint.build_empty()
    fit_module(module, cut, shapes)
    _load(module, model.weight_files, own_names)
    network = blueprint.make_network(module, tokenizer)
    check_runs(network, cut)
    return LoadedModel(
        network,
        tuple(sorted(forms)),
        partial(_build_fresh, blueprint, tokenizer),
        _warn(forms),
        names_in_file,
    )


def make_blueprint(config: dict[str, object]) -> "Blueprint":
    """Check a config and prepare to build from it; transformers is imported here, by its first user."""
    found: Blueprint = _network().Blueprint(config)
    return found


def _network() -> ModuleType:
    # Read when huggingface_hub is imported: nothing is ever fetched.
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Imported late: it takes over a second, which jobs on other models must not pay.
    return importlib.import_module("worker.models.huggingface.network")


def _require(role: str, model: ModelInput) -> None:
    if role not in model.files:
        raise InvalidModel(f"a huggingface model has {role}; found: {', '.join(model.files)}")


def _read_tokenizer(model: ModelInput, config: dict[str, object]) -> TextTokenizer:
    _require(TOKENIZER, model)
    pad_id, eos_id = (_read_id(config.get(name)) for name in ("pad_token_id", "eos_token_id"))
    return read_tokenizer(
        model.files[TOKENIZER],
        model.files.get(TOKENIZER_CONFIG),
        pad_id=pad_id,
        eos_id=eos_id,
        vocabulary=_read_id(config.get("vocab_size")),
    )


def _read_id(value: object) -> int | None:
    # Some configs list several tokens that end a text.
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) else None


def _build_fresh(blueprint: "Blueprint", tokenizer: TextTokenizer | None) -> Network:
    return blueprint.make_network(blueprint.build_fresh(), tokenizer)


def _read_forms(paths: Iterable[Path]) -> dict[str, TensorForm]:
    """Return the form of every tensor that is a weight, by name, without reading its values."""
    forms = {name: form for path in paths for name, form in read_forms(path).items()}
    return {name: form for name, form in forms.items() if not _CONSTANTS.fullmatch(name)}


def _list_names_in_file(meta: "PreTrainedModel", found: Mapping[str, TensorForm]) -> dict[str, str]:
    """Return what the files call tensors that the module calls something else: some families were renamed."""
    if found.keys() <= meta.state_dict().keys():
        return {}
    saved = _network().list_saved_names(meta)
    return {name: in_file for name, in_file in saved.items() if in_file in found}


def _check_forms(meta: nn.Module, found: dict[str, TensorForm]) -> None:
    expected = {name: form_of(tensor) for name, tensor in meta.state_dict().items()}
    tied = _list_tied(meta)
    missing = [
        name
        for name in expected
        if name not in found and not any(other in found for other in tied.get(name, ()))
    ]
    working = {
        name: TensorForm(form.shape, _WORKING if form.dtype in FLOATS else form.dtype)
        for name, form in found.items()
    }
    check_structure(expected, working, missing=missing, hint=_HINT)


def _list_tied(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the names of each parameter that has several, by every one of them."""
    names: defaultdict[int, list[str]] = defaultdict(list)
    for name, weight in module.named_parameters(remove_duplicate=False):
        names[id(weight)].append(name)
    return {name: tuple(group) for group in names.values() if len(group) > 1 for name in group}


def _load(module: nn.Module, paths: Iterable[Path], own_names: Mapping[str, str]) -> None:
    targets = module.state_dict(keep_vars=True)
    tied = _list_tied(module)
    written: set[str] = set()
    for path in paths:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            for in_file in sorted(file.keys()):
                name = own_names.get(in_file, in_file)
                if name not in targets:
                    continue
                # A double that is finite may be none as what is computed with.
                tensor = file.get_tensor(in_file).to(targets[name].dtype)
                check_finite(name, tensor)
                before = written.intersection(tied.get(name, ()))
                if before and not torch.equal(targets[name], tensor):
                    raise ArchitectureMismatch(
                        f"config.json ties {name} to {before.pop()}, but the files hold different values for "
                        "them; untie them with tie_word_embeddings: false"
                    )
                targets[name].copy_(tensor)
                written.add(name)


def _warn(forms: dict[str, TensorForm]) -> tuple[str, ...]:
    others = Counter(form.dtype for form in forms.values() if form.dtype != _WORKING)
    if not others:
        return ()
    counted = ", ".join(f"{n} of {len(forms)} tensors in {dtype}" for dtype, n in sorted(others.items()))
    return (f"the weights were uploaded with {counted}; they are computed with and exported in {_WORKING}",)
