"""Text datasets through a model's own tokenizer: ids in their order, padded, cut and counted."""

import csv
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from app.core.errors import DatasetMismatch, EmptyDataset, InvalidDataset, LabelsOutOfRange
from tests.support.huggingface import make_bert_folder, make_folder, make_gpt2_folder, model_input, sentences
from worker.datasets.registry import read_splits
from worker.datasets.splits import Split
from worker.formats.registry import read_model
from worker.models.registry import Network, build
from worker.protocol import DatasetInput

ROWS = sentences(40)
FORMS = ("csv", "jsonl", "parquet")


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Network:
    return read_model(model_input(make_bert_folder(tmp_path_factory.mktemp("bert") / "m"))).network


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> Network:
    return read_model(model_input(make_gpt2_folder(tmp_path_factory.mktemp("gpt2") / "m"))).network


def table(rows, form: str, names=("text", "label")) -> bytes:
    if form == "jsonl":
        return b"".join(json.dumps(dict(zip(names, row, strict=True))).encode() + b"\n" for row in rows)
    if form == "csv":
        text = io.StringIO(newline="")
        csv.writer(text).writerows([names, *rows])
        return text.getvalue().encode()
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    return parquet_bytes(pyarrow.table(columns))


def parquet_bytes(given: pyarrow.Table, **options) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(given, buffer, **options)
    return buffer.getvalue()


def read(folder: Path, network: Network, data: bytes, form: str = "csv", **changes) -> Split:
    path = folder / "test"
    path.write_bytes(data)
    given = {
        "format": form,
        "task": "text-classification",
        "layout": None,
        "normalize": None,
        "files": {"test": path},
        "sha256": {},
    }
    return read_splits(DatasetInput(**{**given, **changes}), network)["test"]


def everything(split: Split):
    return split.take(torch.arange(len(split)))


def test_every_form_of_the_same_rows_gives_the_same_samples(tmp_path, bert):
    csv_split, *others = (everything(read(tmp_path, bert, table(ROWS, form), form)) for form in FORMS)
    for other in others:
        assert torch.equal(csv_split.targets, other.targets)
        assert all(torch.equal(csv_split.inputs[name], other.inputs[name]) for name in csv_split.inputs)


def test_texts_get_their_special_tokens_and_padding_that_is_masked(tmp_path, bert):
    batch = everything(read(tmp_path, bert, b"text,label\nthe film was great,1\ngreat,0\n"))
    vocabulary = bert.tokenizer._tokenizer.get_vocab()
    great = vocabulary["great"]
    assert batch.inputs["input_ids"].tolist() == [
        [2, vocabulary["the"], vocabulary["film"], vocabulary["was"], great, 3],
        [2, great, 3, 0, 0, 0],
    ]
    assert batch.inputs["attention_mask"].tolist() == [[1] * 6, [1] * 3 + [0] * 3]
    assert batch.inputs["token_type_ids"].sum() == 0
    assert batch.targets.tolist() == [1, 0]
    assert set(batch.inputs) == set(bert.inputs.names)


def test_pairs_are_told_apart_by_their_token_types(tmp_path, bert):
    data = b"a,b,label\ngreat,the film,1\n"
    batch = everything(read(tmp_path, bert, data, columns={"text": "a", "text_pair": "b"}))
    assert batch.inputs["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_are_the_split_by_length(tmp_path, bert, batch_size):
    split = read(tmp_path, bert, table(ROWS, "csv"))
    batches = list(split.batches(batch_size))
    assert max(len(batch.targets) for batch in batches) <= batch_size
    assert sorted(split.order.tolist()) == list(range(len(split)))
    assert split.lengths[split.order].tolist() == sorted(split.lengths.tolist())
    assert torch.equal(torch.cat([batch.targets for batch in batches]), split.labels[split.order])
    texts = [row[mask.bool()].tolist() for b in batches for row, mask in zip(*pair(b), strict=True)]
    whole = split.take(split.order)
    assert texts == [row[mask.bool()].tolist() for row, mask in zip(*pair(whole), strict=True)]


def pair(batch):
    return batch.inputs["input_ids"], batch.inputs["attention_mask"]


def test_padding_changes_no_answer(tmp_path, bert):
    split = read(tmp_path, bert, table(ROWS, "csv"))
    with torch.no_grad():
        together = bert.module(**split.take(split.order).inputs).logits
        alone = torch.cat([bert.module(**batch.inputs).logits for batch in split.batches(1)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_long_texts_make_smaller_batches(tmp_path, gpt2_classifier):
    rows = [("great " * 60, 1)] * 600
    sizes = [len(b.targets) for b in read(tmp_path, gpt2_classifier, table(rows, "csv")).batches(500)]
    assert sum(sizes) == 600
    assert max(sizes) * 64 <= 16_384


@pytest.fixture(scope="module")
def gpt2_classifier(tmp_path_factory) -> Network:
    folder = make_folder(tmp_path_factory.mktemp("classifier") / "m", "gpt2", classes=2)
    return read_model(model_input(folder)).network


def test_a_decoder_that_classifies_looks_at_the_last_real_token(tmp_path, gpt2_classifier):
    split = read(tmp_path, gpt2_classifier, table(ROWS, "csv"))
    with torch.no_grad():
        together = gpt2_classifier.module(**split.take(split.order).inputs).logits
        alone = torch.cat([gpt2_classifier.module(**b.inputs).logits for b in split.batches(1)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_texts_over_the_limit_are_cut_and_counted(tmp_path, bert):
    rows = [("great " * 100, 1), ("great", 0)]
    split = read(tmp_path, bert, table(rows, "csv"))
    assert split.tokens.lengths.tolist() == [64, 3]
    assert split.warnings == ("split test: 1 of 2 texts have more than 64 tokens and were cut",)
    shorter = read(tmp_path, bert, table(rows, "csv"), max_tokens=5)
    assert shorter.tokens.lengths.tolist() == [5, 3]
    assert everything(shorter).inputs["input_ids"][0, -1] == 3


def test_texts_within_the_limit_need_no_warning(tmp_path, bert):
    assert read(tmp_path, bert, table(ROWS, "csv")).warnings == ()


def test_a_limit_that_leaves_no_room_is_refused(tmp_path, bert):
    with pytest.raises(InvalidDataset, match="max_tokens 2 leaves no room"):
        read(tmp_path, bert, table(ROWS, "csv"), max_tokens=2)


def test_the_labels_of_regression_are_float32(tmp_path, bert):
    for form in FORMS:
        split = read(tmp_path, bert, table([("a", 0.5), ("b", -2.0)], form), form, task="regression")
        assert (split.labels.dtype, split.labels.tolist()) == (torch.float32, [0.5, -2.0])


def test_running_text_is_cut_into_windows_and_the_rest_dropped(tmp_path, gpt2):
    text = " ".join(text for text, _ in ROWS)
    split = read(tmp_path, gpt2, text.encode(), "text", task="language-modeling", block_tokens=16)
    ids = gpt2.tokenizer.encode_document(text).tolist()
    batch = everything(split)
    assert batch.inputs["input_ids"].flatten().tolist() == ids[: len(ids) // 16 * 16]
    assert torch.equal(batch.targets, batch.inputs["input_ids"])
    assert split.dropped == len(ids) % 16
    assert split.warnings == (
        f"split test: its last {len(ids) % 16} tokens do not fill a window of 16 and were dropped",
    )
    assert sum(len(b.targets) for b in split.batches(3)) == len(split)


def test_rows_of_running_text_are_paragraphs(tmp_path, gpt2):
    text = "\n\n".join(text for text, _ in ROWS)
    changes = {"task": "language-modeling", "block_tokens": 16}
    whole = everything(read(tmp_path, gpt2, text.encode(), "text", **changes))
    for form in FORMS:
        rows = everything(read(tmp_path, gpt2, table(ROWS, form), form, **changes))
        assert torch.equal(rows.targets, whole.targets)


def test_line_ends_of_plain_text_stay_as_they_are(tmp_path, gpt2):
    changes = {"task": "language-modeling", "block_tokens": 2}
    split = read(tmp_path, gpt2, "\ufeffa\r\nb".encode(), "text", **changes)
    assert everything(split).targets.flatten().tolist() == gpt2.tokenizer.encode_document("a\r\nb").tolist()


def test_a_window_that_the_model_does_not_take_is_refused(tmp_path, gpt2):
    with pytest.raises(DatasetMismatch, match="block_tokens is 65, the model takes at most 64"):
        read(tmp_path, gpt2, b"a " * 200, "text", task="language-modeling", block_tokens=65)


def test_text_that_fills_no_window_is_refused(tmp_path, gpt2):
    with pytest.raises(EmptyDataset, match="2 tokens, which do not fill a window of 64"):
        read(tmp_path, gpt2, b"ab", "text", task="language-modeling")


def test_a_vocabulary_that_the_model_does_not_have_is_refused_with_both_numbers(tmp_path, bert, gpt2):
    split = read(tmp_path, gpt2, b"text,label\nsome other text,0\n")
    with pytest.raises(DatasetMismatch, match=r"token id \d+, the model's embedding has 26 rows"):
        split.check_fit(bert)


def test_images_are_no_text_and_text_no_images(tmp_path, bert):
    lenet = build({"name": "lenet-300-100"})
    with pytest.raises(DatasetMismatch, match="the model takes images"):
        read(tmp_path, lenet, table(ROWS, "csv"))
    with pytest.raises(DatasetMismatch, match="the model takes images"):
        read(tmp_path, bert, table(ROWS, "csv")).check_fit(lenet)


def test_labels_that_the_head_does_not_have_are_refused(tmp_path, bert):
    with pytest.raises(LabelsOutOfRange, match="the first is 7 at index 1"):
        read(tmp_path, bert, b"text,label\na,0\nb,7\n").check_fit(bert)
    with pytest.raises(DatasetMismatch, match="3 classes, the model tells 2 apart"):
        read(tmp_path, bert, b"text,label\n" + b"a,0\nb,1\nc,2\n" * 2).check_fit(bert)
    with pytest.raises(DatasetMismatch, match="numbers as labels"):
        read(tmp_path, bert, b"text,label\na,0.5\n", task="regression").check_fit(bert)


def test_a_text_without_a_token_is_refused_with_its_place(tmp_path, gpt2_classifier):
    with pytest.raises(InvalidDataset, match="sample 2 has no token"):
        read(tmp_path, gpt2_classifier, b'text,label\na,0\n"",1\n')


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": ["a", None], "label": [0, 1]}, "line 2, column 'text': expected text, found nothing"),
        ({"text": ["a", "b"], "label": [0, None]}, "line 2, column 'label': expected a class, an integer"),
        ({"text": [1, 2], "label": [0, 1]}, "column 'text' holds int64; expected strings"),
        ({"text": ["a", "b"], "label": ["0", "1"]}, "column 'label' holds string; expected numbers"),
        ({"text": [["a"], ["b"]], "label": [0, 1]}, "column 'text' holds list"),
        ({"text": ["a", "b"], "label": [0.0, 1.0]}, "line 1, column 'label': expected a class, an integer"),
        ({"text": ["a", "b"]}, "no column 'label'; it has: text"),
        ({"text": ["a\0", "b"], "label": [0, 1]}, "line 1, column 'text': expected text without NUL"),
    ],
)
def test_a_parquet_column_that_does_not_fit_is_named(tmp_path, bert, columns, says):
    with pytest.raises(InvalidDataset, match=says):
        read(tmp_path, bert, parquet_bytes(pyarrow.table(columns)), "parquet")


def test_a_damaged_parquet_file_is_refused(tmp_path, bert):
    good = table(ROWS, "parquet")
    for bad in (
        good[:-20] + good[-8:],
        b"PAR1" + b"\0" * 100 + good[-8:],
        good[:4] + b"x" * 200 + good[204:],
    ):
        with pytest.raises(InvalidDataset, match="split test"):
            read(tmp_path, bert, bad, "parquet")


def test_a_parquet_file_without_rows_is_empty(tmp_path, bert):
    empty = pyarrow.table(
        {"text": pyarrow.array([], pyarrow.string()), "label": pyarrow.array([], pyarrow.int8())}
    )
    with pytest.raises(EmptyDataset):
        read(tmp_path, bert, parquet_bytes(empty), "parquet")


def test_a_long_text_that_many_rows_share_is_refused_before_it_is_unpacked(tmp_path, bert):
    # A few kilobytes that stand for 20 GB.
    text = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * 10_000, pyarrow.int32()), ["a" * 2_000_000]
    )
    rows = pyarrow.table({"text": text, "label": [0] * 10_000})
    data = parquet_bytes(rows, compression="zstd")
    assert len(data) < 100_000
    with pytest.raises(InvalidDataset, match="line 1: a row has at most"):
        read(tmp_path, bert, data, "parquet")


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_texts_that_a_writer_encoded_by_deltas_are_read(tmp_path, bert, encoding):
    rows = pyarrow.table({"text": ["great", "greater", "dull"] * 300, "label": [1, 1, 0] * 300})
    data = parquet_bytes(rows, use_dictionary=False, column_encoding={"text": encoding, "label": "PLAIN"})
    plain = read(tmp_path, bert, parquet_bytes(rows), "parquet")
    split = read(tmp_path, bert, data, "parquet")
    assert torch.equal(everything(split).targets, everything(plain).targets)
    assert torch.equal(split.tokens.ids, plain.tokens.ids)


def test_small_integers_and_dictionaries_are_read(tmp_path, bert):
    text = pyarrow.array(["great", "dull", "great"]).dictionary_encode()
    label = pyarrow.array([1, 0, 1], pyarrow.int8())
    split = read(tmp_path, bert, parquet_bytes(pyarrow.table({"sentence": text, "label": label})), "parquet")
    assert split.labels.tolist() == [1, 0, 1]
