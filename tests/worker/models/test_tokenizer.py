"""The tokenizer of a model: piece by piece it gives what it gives at once, and padding has one meaning."""

import json
from itertools import accumulate
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from app.core.errors import InvalidModel
from tests.support.huggingface import make_bert_folder, make_gpt2_folder, sentences
from worker.models import tokenizer as module
from worker.models.tokenizer import TextTokenizer, read_tokenizer


def make_template(first: dict[str, dict[str, str | int]]) -> dict[str, object]:
    """Make a post-processor that puts something in front of a text; pairs are as they should be."""
    single = [first, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": {}}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return make_bert_folder(tmp_path_factory.mktemp("bert") / "m")


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Path:
    return make_gpt2_folder(tmp_path_factory.mktemp("gpt2") / "m")


def read(
    folder: Path, *, pad_id=None, eos_id=None, vocabulary=None, has_config: bool = True
) -> TextTokenizer:
    config = folder / "tokenizer_config.json" if has_config else None
    path = folder / "tokenizer.json"
    return read_tokenizer(path, config, pad_id=pad_id, eos_id=eos_id, vocabulary=vocabulary)


def test_many_texts_are_encoded_as_each_of_them_is(bert):
    texts = [text for text, _ in sentences(module._TEXTS_AT_ONCE + 10)]
    tokenizer = read(bert)
    together = tokenizer.encode(texts, None, max_tokens=6)
    starts = [0, *accumulate(together.lengths)]
    for i in (0, 1, module._TEXTS_AT_ONCE - 1, module._TEXTS_AT_ONCE, len(texts) - 1):
        alone = tokenizer.encode([texts[i]], None, max_tokens=6)
        assert together.ids[starts[i] : starts[i + 1]] == alone.ids
    assert together.truncated == sum(tokenizer.encode([t], None, max_tokens=6).truncated for t in texts)


def test_a_long_document_is_encoded_as_its_lines_are(gpt2, monkeypatch):
    monkeypatch.setattr(module, "_CHARACTERS_AT_ONCE", 10_000)
    line = "this is great\n"
    n = 3 * module._CHARACTERS_AT_ONCE // len(line) + 10
    tokenizer = read(gpt2)
    assert len(tokenizer.encode_document(line * n)) == n * len(tokenizer.encode_document(line))


@pytest.mark.parametrize(
    ("given", "config", "expected"),
    [
        ({"pad_id": 7, "eos_id": 3}, {"pad_token": "[PAD]"}, 7),
        ({"eos_id": 3}, {"pad_token": "[UNK]"}, 1),
        ({"eos_id": 3}, {"pad_token": {"content": "[SEP]"}}, 3),
        ({"eos_id": 5}, {"pad_token": None}, 5),
        ({"pad_id": -1, "eos_id": 5}, {}, 5),
        ({}, {"eos_token": "[SEP]"}, 3),
        ({}, {"pad_token": "nowhere"}, 0),
        # A padding that was added without rows of the embedding for it.
        ({"pad_id": 300, "eos_id": 3, "vocabulary": 300}, {"pad_token": "[SEP]"}, 3),
        ({"pad_id": 300, "vocabulary": 300}, {}, 0),
        ({"pad_id": 7, "vocabulary": -1}, {}, 0),
    ],
)
def test_padding_is_what_model_then_tokenizer_say(bert, tmp_path, given, config, expected):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    assert read(tmp_path, **given).pad_id == expected


@pytest.mark.parametrize(
    ("config", "own"),
    [({"truncation_side": "left"}, None), ({}, "left"), ({"truncation_side": "right"}, "left"), ({}, None)],
)
def test_a_long_text_loses_the_end_that_transformers_cuts(bert, tmp_path, config, own):
    tokenizer = Tokenizer.from_file(str(bert / "tokenizer.json"))
    if own is not None:
        tokenizer.enable_truncation(64, direction=own)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config})
    )
    text = "this is great and this is dull and this is so so"
    theirs = AutoTokenizer.from_pretrained(tmp_path)(text, truncation=True, max_length=6)["input_ids"]
    assert read(tmp_path).encode([text], None, max_tokens=6).ids.tolist() == theirs


def test_words_are_broken_up_in_one_way_whatever_they_were_trained_with(gpt2, tmp_path):
    given = json.loads((gpt2 / "tokenizer.json").read_text())
    assert given["model"]["type"] == "BPE"
    given["model"]["dropout"] = 0.9
    (tmp_path / "tokenizer.json").write_text(json.dumps(given))
    tokenizer, text = read(tmp_path, has_config=False), "this is great " * 20
    expected = read(gpt2).encode([text], None, max_tokens=64).ids
    assert all(tokenizer.encode([text], None, max_tokens=64).ids == expected for _ in range(5))


@pytest.mark.parametrize(("limit", "expected"), [(64, 64), (10**30, None), ("64", None), (None, None)])
def test_the_limit_of_a_tokenizer_is_a_number_that_a_text_can_reach(bert, tmp_path, limit, expected):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit}))
    (tmp_path / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes())
    assert read(tmp_path).max_tokens == expected


def test_a_tokenizer_needs_no_config(bert):
    assert read(bert, has_config=False).max_tokens is None


def test_a_text_that_has_no_token_is_refused_with_the_reason(tmp_path):
    vocabulary = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    tokenizer = read(tmp_path, has_config=False)
    with pytest.raises(InvalidModel, match="cannot encode the dataset's text"):
        tokenizer.encode(["b"], None, max_tokens=8)
    with pytest.raises(InvalidModel, match="cannot encode the dataset's text"):
        tokenizer.encode_document("b")


@pytest.mark.parametrize(
    "changes",
    [
        {"post_processor": make_template({"SpecialToken": {"id": "X", "type_id": 0}})},
        {"post_processor": make_template({"Sequence": {"id": "B", "type_id": 0}})},
        {"post_processor": make_template({"Sequence": {"id": "A", "type_id": 2**31}})},
        {"post_processor": {"type": "BertProcessing", "sep": ["s", 7], "cls": ["c", 2**32 - 1]}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="}},
    ],
    ids=["special", "pair", "type", "bert", "length", "charsmap", "trie"],
)
def test_a_tokenizer_that_breaks_its_library_is_refused_before_there_is_a_dataset(tmp_path, changes):
    write(tmp_path, {"[UNK]": 0, "a": 1}, **changes)
    with pytest.raises(InvalidModel, match=r"tokenizer.json cannot"):
        read(tmp_path, has_config=False)


def test_an_id_beyond_all_vocabularies_is_refused(tmp_path):
    write(tmp_path, {"[UNK]": 0, "far": 2**31})
    tokenizer = read(tmp_path, has_config=False)
    says = "cannot encode the dataset's text: an id in it is above 2147483647"
    with pytest.raises(InvalidModel, match=says):
        tokenizer.encode(["a far"], None, max_tokens=8)
    with pytest.raises(InvalidModel, match=says):
        tokenizer.encode_document("a far")


def test_a_pair_that_breaks_the_library_is_refused_as_a_text_is(tmp_path):
    whole = {"Sequence": {"id": "A", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [whole], "special_tokens": {}}
    pair = [whole, {"SpecialToken": {"id": "X", "type_id": 0}}]
    write(tmp_path, {"[UNK]": 0, "a": 1}, post_processor={**template, "pair": pair})
    tokenizer = read(tmp_path, has_config=False)
    with pytest.raises(InvalidModel, match="cannot encode the dataset's text"):
        tokenizer.encode(["a"], ["a"], max_tokens=8)


def test_what_ends_the_process_is_nobody_s_fault(tmp_path):
    class Ended:
        def no_truncation(self) -> None: ...

        def encode(self, text: str, *, add_special_tokens: bool) -> None:
            raise SystemExit

    with pytest.raises(SystemExit):
        TextTokenizer(Ended(), pad_id=0, max_tokens=None).encode_document("a text")


def write(folder: Path, vocabulary: dict[str, int], **changes: object) -> None:
    """Write a tokenizer.json of whole words."""
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    given = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}}
    (folder / "tokenizer.json").write_text(json.dumps(given | changes))
