"""The check of Hugging Face folders: it takes what transformers saves, and nothing that could run code."""

import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch

from app.core.errors import (
    DuplicateKeys,
    InvalidHeader,
    InvalidModel,
    InvalidUpload,
    PickleRefused,
    TruncatedFile,
    UnknownArchitecture,
)
from app.core.huggingface import ARCHITECTURES, IMAGES_SUFFIX
from app.services.formats.huggingface import CheckedModel, check_files
from tests.support.huggingface import (
    make_bert_folder,
    make_folder,
    make_gpt2_folder,
    make_vit_folder,
)

TEXTS = [
    (kind, name)
    for kind, names in ARCHITECTURES.items()
    for name in names
    if not name.endswith(IMAGES_SUFFIX)
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_bert_folder(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture
def folder(bert, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def check(folder: Path, **changes: Path) -> CheckedModel:
    return check_files({path.name: path for path in folder.iterdir()} | changes)


def edit(folder: Path, name: str = "config.json", **changes) -> None:
    path = folder / name
    given = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in given.items() if value is not ...}))


@pytest.mark.parametrize(("kind", "name"), TEXTS, ids=[name for _, name in TEXTS])
def test_what_transformers_saves_is_taken(tmp_path, kind, name):
    classes = 3 if name.endswith("ForSequenceClassification") else None
    found = check(make_folder(tmp_path / "model", kind, classes=classes))
    assert (found.model_type, found.architecture) == (kind, name)
    assert found.elements > 10_000


def test_a_model_of_images_needs_no_tokenizer(tmp_path):
    found = check(make_vit_folder(tmp_path / "model"))
    assert (found.model_type, found.architecture) == ("vit", "ViTForImageClassification")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": 2048, "patch_size": 8}, "65536 patches of 8; from 1 to 4096 are"),
        ({"image_size": 4, "patch_size": 8}, "0 patches of 8; from 1 to 4096 are"),
        ({"image_size": ..., "patch_size": 1}, "50176 patches of 1; from 1 to 4096 are"),
        ({"image_size": None}, "expected integers, found image_size None"),
        ({"image_size": [8, 8]}, "'image_size': expected an integer from 1 to 8192, found [8, 8]"),
        ({"patch_size": 0}, "'patch_size': expected an integer from 1 to 8192, found 0"),
        ({"num_channels": 1000}, "'num_channels': expected an integer from 1 to 64"),
        ({"problem_type": "multi_label_classification"}, "several labels a sample"),
    ],
)
def test_a_config_of_images_that_makes_no_sense_is_refused_by_field(tmp_path, changes, says):
    folder = make_vit_folder(tmp_path / "model")
    edit(folder, **changes)
    with pytest.raises(InvalidModel, match=re.escape(says)):
        check(folder)


def test_shards_with_their_index_are_taken(tmp_path):
    folder = make_gpt2_folder(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert check(folder).elements == check(make_gpt2_folder(tmp_path / "whole")).elements


def test_every_optional_file_is_taken(folder):
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    for name in ("special_tokens_map.json", "added_tokens.json", "generation_config.json", "vocab.json"):
        (folder / name).write_text("{}")
    assert check(folder).architecture == "BertForSequenceClassification"


def test_a_missing_tokenizer_is_asked_for_with_the_way_to_get_it(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidUpload, match=r"AutoTokenizer.from_pretrained.*save_pretrained"):
        check(folder)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_a_folder_that_is_not_whole_says_what_is_missing(folder, gone):
    (folder / gone).unlink()
    with pytest.raises(InvalidUpload, match=gone):
        check(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "x.ckpt", "A.PKL"])
def test_a_pickle_is_refused_by_its_name(folder, name):
    (folder / name).write_bytes(b"")
    with pytest.raises(PickleRefused, match="save_pretrained"):
        check(folder)


@pytest.mark.parametrize("name", ["modeling.py", "../config.json", "README.md", "model-1-of-2.safetensors"])
def test_a_file_that_does_not_belong_there_is_refused(folder, name):
    with pytest.raises(InvalidUpload, match="is no file of such a model"):
        check(folder, **{name: folder / "config.json"})


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pickle_under_another_name_is_refused_without_being_run(folder, tmp_path, name):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    (folder / name).write_bytes(pickle.dumps(Attack()))
    with pytest.raises(PickleRefused):
        check(folder)
    torch.save({"a": torch.zeros(1)}, folder / name)
    with pytest.raises(PickleRefused):
        check(folder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModel": "modeling.Evil"}},
        {"trust_remote_code": True},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"attn_implementation": "somebody/kernel"},
        {"_attn_implementation": "somebody/kernel"},
        {"_attn_implementation_internal": "somebody/kernel"},
        {"experts_implementation": "somebody/kernel"},
        {"per_layer_config": {"0": {"x": 1}}},
        {"_anything": 1},
        {"pruned_heads": {"0": [1]}},
        {"add_cross_attention": True},
        {"transformers_weights": "model.safetensors"},
        {"fusion_config": {"patch_embeddings": True}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_config_that_asks_for_code_or_odd_weights_is_refused_by_name(folder, changes):
    edit(folder, **changes)
    with pytest.raises(InvalidModel, match=next(iter(changes))):
        check(folder)


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("llama", {"is_causal": False}, r"'is_causal'.*computed with true.*found False"),
        ("gpt2", {"is_causal": None}, r"'is_causal'.*computed with true.*found None"),
        ("bert", {"is_causal": True}, r"'is_causal'.*computed with false.*found True"),
        ("bert", {"is_causal": False, "is_decoder": True}, r"'is_causal'.*computed with true.*found False"),
        ("llama", {"return_dict": False}, r"'return_dict'.*computed with true.*found False"),
    ],
)
def test_a_config_that_asks_for_another_computation_is_refused(tmp_path, kind, changes, says):
    folder = make_folder(tmp_path / "model", kind, classes=2)
    edit(folder, **changes)
    with pytest.raises(InvalidModel, match=says):
        check(folder)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {"is_causal": True, "return_dict": True}), ("bert", {"is_causal": False})],
)
def test_a_config_that_says_what_is_computed_anyway_is_taken(tmp_path, kind, changes):
    folder = make_folder(tmp_path / "model", kind, classes=2)
    edit(folder, **changes)
    assert check(folder).model_type == kind


def test_what_older_versions_wrote_without_meaning_is_taken(folder):
    edit(
        folder,
        _name_or_path="bert",
        _commit_hash=None,
        auto_map={},
        trust_remote_code=False,
        torch_dtype="float16",
    )
    edit(folder, _attn_implementation_autoset=True, quantization_config=None, finetuning_task="sst2")
    assert check(folder).model_type == "bert"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "t5"}, "'t5'; there are: bert"),
        ({"model_type": ...}, "None"),
        ({"model_type": ["bert"]}, "bert"),
        ({"architectures": ...}, "None"),
        ({"architectures": ["BertModel"]}, "BertForSequenceClassification"),
        ({"architectures": ["GPT2LMHeadModel"]}, "for bert expected one of"),
        ({"architectures": ["BertForSequenceClassification"] * 2}, "for bert expected one of"),
    ],
)
def test_an_architecture_that_is_not_supported_is_refused_with_those_that_are(folder, changes, says):
    edit(folder, **changes)
    with pytest.raises(UnknownArchitecture, match=says):
        check(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 2**40}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": 32.0}, "hidden_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"num_hidden_layers": 400}, "asks for 400 layers, the files hold"),
        ({"max_position_embeddings": 2**30}, "max_position_embeddings"),
        ({"some_size": 10**30}, "some_size"),
        ({"deep": {"a": [1, {"b": 10**30}]}}, "'b'"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"id2label": [0, 1]}, "id2label"),
        ({"problem_type": "multi_label_classification"}, "several labels"),
    ],
)
def test_a_config_of_insane_values_is_refused_by_field(folder, changes, says):
    edit(folder, **changes)
    with pytest.raises(InvalidModel, match=says):
        check(folder)


@pytest.mark.parametrize(
    ("cut", "pointer"),
    [
        (True, "/secateur_cut"),
        ([1], "/secateur_cut"),
        ({"more": 1}, "/secateur_cut/more"),
        ({"padded": [1]}, "/secateur_cut/padded/0"),
        (
            {"padded": [{"module": "vit", "attribute": "channels_before"}]},
            "/secateur_cut/padded/0/count",
        ),
        (
            {"padded": [{"module": [], "attribute": "channels_before", "count": 1}]},
            "/secateur_cut/padded/0/module",
        ),
    ],
)
def test_a_cut_that_no_job_has_written_is_refused_by_its_place(folder, cut, pointer):
    edit(folder, secateur_cut=cut)
    with pytest.raises(InvalidModel, match=r"config.json is not valid: /secateur_cut") as caught:
        check(folder)
    assert [item.pointer for item in caught.value.errors] == [pointer]


@pytest.mark.parametrize("cut", [None, {}, {"padded": []}])
def test_a_cut_that_says_no_more_than_the_tensors_is_taken(folder, cut):
    edit(folder, secateur_cut=cut, secateur_cut_because="heads are no field of it")
    assert check(folder).model_type == "bert"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", InvalidModel, "not JSON"),
        ("[]", InvalidModel, "not a JSON object"),
        ('{"a": NaN}', InvalidModel, "finite"),
        ('{"a": 1, "a": 2}', DuplicateKeys, "twice"),
        ('{"a":' * 100 + "1" + "}" * 100, InvalidModel, "nested"),
        ('{"a":' * 200_000, InvalidModel, "nested"),
        ("[" * 2_000_000, InvalidModel, "more than"),
        ('{"a": "' + "x" * (9 * 1024**2) + '"}', InvalidModel, "at most"),
        ("\ufeff{}", InvalidModel, "not JSON"),
    ],
    ids=["empty", "list", "nan", "twice", "deep", "deeper", "bomb", "long", "bom"],
)
def test_a_config_that_is_no_plain_json_is_refused(folder, text, error, says):
    (folder / "config.json").write_text(text)
    with pytest.raises(error, match=says) as caught:
        check(folder)
    assert "config.json" in caught.value.detail


def test_a_tokenizer_of_another_kind_is_refused(folder):
    (folder / "tokenizer.json").write_text('{"vocab": {}}')
    with pytest.raises(InvalidModel, match="tokenizers library"):
        check(folder)


def test_a_tokenizer_config_that_names_code_is_refused(folder):
    edit(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y", None]})
    with pytest.raises(InvalidModel, match=r"tokenizer_config.json has 'auto_map'"):
        check(folder)


def test_weights_that_are_cut_off_are_refused_with_the_files_name(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TruncatedFile, match=r"model.safetensors: "):
        check(folder)
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(InvalidHeader):
        check(folder)


@pytest.fixture
def sharded(tmp_path) -> Path:
    return make_gpt2_folder(tmp_path / "sharded", max_shard_size="40KB")


def test_an_index_that_names_another_shard_is_refused_with_the_tensor(sharded):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    name = sorted(index)[0]
    other = next(shard for shard in index.values() if shard != index[name])
    edit(sharded, "model.safetensors.index.json", weight_map=index | {name: other})
    with pytest.raises(InvalidModel, match=f"differ in 1 tensors; the first is '{name}'"):
        check(sharded)


def test_a_shard_that_is_missing_is_noticed(sharded):
    next(sharded.glob("model-00002*")).unlink()
    with pytest.raises(InvalidModel, match="it is in none"):
        check(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded):
    first = next(sharded.glob("model-00001*"))
    shutil.copyfile(first, next(sharded.glob("model-00002*")))
    with pytest.raises(DuplicateKeys, match="is in model-00001"):
        check(sharded)


def test_whole_weights_beside_shards_are_refused(sharded):
    shutil.copyfile(next(sharded.glob("model-00001*")), sharded / "model.safetensors")
    with pytest.raises(InvalidUpload, match="either"):
        check(sharded)
