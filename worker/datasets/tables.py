"""Read text datasets: csv, jsonl and parquet with a column of text, and files of plain text."""

from collections.abc import Iterator
from pathlib import Path

import torch

from app.core.errors import DatasetMismatch, EmptyDataset, InvalidDataset
from app.core.rows import Columns, Row, read_rows
from worker.datasets.parquet import read_parquet_rows
from worker.datasets.registry import Splits, register
from worker.datasets.splits import Split
from worker.datasets.tokens import TextSplit, Tokens
from worker.datasets.windows import WindowSplit
from worker.models.inputs import TextInput
from worker.models.registry import Network
from worker.models.tokenizer import TextTokenizer
from worker.protocol import DatasetInput

_MODELING = "language-modeling"
_TABLE_TASKS = ("text-classification", "regression", _MODELING)
_DEFAULT_MAX_TOKENS = 512
_DEFAULT_BLOCK_TOKENS = 256
# Rows of a table of running text are paragraphs.
_JOINT = "\n\n"


def read_table(dataset: DatasetInput, network: Network) -> Splits:
    """Read every split through the network's tokenizer.

    Raises InvalidDataset, EmptyDataset, LabelsOutOfRange or DatasetMismatch, naming the split.
    """
    tokenizer, inputs = network.tokenizer, network.inputs
    if tokenizer is None or not isinstance(inputs, TextInput):
        raise DatasetMismatch("the dataset holds text, the model takes images")
    read = _read_windows if dataset.task == _MODELING else _read_texts
    return {name: read(name, dataset, network, tokenizer, inputs) for name in sorted(dataset.files)}


register("csv", summary="Comma-separated values in UTF-8, names in the first line.", tasks=_TABLE_TASKS)(
    read_table
)
register("jsonl", summary="One JSON object a line, in UTF-8.", tasks=_TABLE_TASKS)(read_table)
register("parquet", summary="Apache Parquet with columns of text and labels.", tasks=_TABLE_TASKS)(read_table)
register("text", summary="Plain text in UTF-8.", tasks=(_MODELING,))(read_table)


def _read_texts(
    name: str, dataset: DatasetInput, network: Network, tokenizer: TextTokenizer, inputs: TextInput
) -> Split:
    rows = list(_rows(name, dataset))
    if not rows:
        raise EmptyDataset(f"split {name} holds no samples")
    max_tokens = min(dataset.max_tokens or _DEFAULT_MAX_TOKENS, inputs.max_tokens)
    has_pairs = rows[0].text_pair is not None
    if tokenizer.count_special(are_pairs=has_pairs) >= max_tokens:
        raise InvalidDataset(f"max_tokens {max_tokens} leaves no room for a text beside the special tokens")
    pairs = [row.text_pair or "" for row in rows] if has_pairs else None
    encoded = tokenizer.encode([row.text for row in rows], pairs, max_tokens=max_tokens)
    if 0 in encoded.lengths:
        empty = encoded.lengths.index(0)
        raise InvalidDataset(
            f"split {name}: sample {empty + 1} has no token: its text is {rows[empty].text!a}"
        )
    dtype = torch.float32 if dataset.task == "regression" else torch.int64
    return TextSplit(
        name,
        Tokens.of(encoded),
        torch.tensor([row.label for row in rows], dtype=dtype),
        names=inputs.names,
        pad_id=tokenizer.pad_id,
        truncated=encoded.truncated,
        max_tokens=max_tokens,
    )


def _read_windows(
    name: str, dataset: DatasetInput, network: Network, tokenizer: TextTokenizer, inputs: TextInput
) -> Split:
    block = dataset.block_tokens or min(_DEFAULT_BLOCK_TOKENS, inputs.max_tokens)
    if block > inputs.max_tokens:
        raise DatasetMismatch(f"block_tokens is {block}, the model takes at most {inputs.max_tokens} tokens")
    ids = tokenizer.encode_document(_read_document(name, dataset))
    n = len(ids) // block
    if n == 0:
        raise EmptyDataset(f"split {name} has {len(ids)} tokens, which do not fill a window of {block}")
    windows = torch.frombuffer(ids, dtype=torch.int32)[: n * block].reshape(n, block)
    return WindowSplit(name, windows, dropped=len(ids) - n * block, vocabulary=network.outputs)


def _read_document(name: str, dataset: DatasetInput) -> str:
    if dataset.format != "text":
        return _JOINT.join(row.text for row in _rows(name, dataset))
    try:
        return _decode(dataset.files[name])
    except UnicodeDecodeError as error:
        raise InvalidDataset(f"split {name} is not UTF-8: {error.reason} at byte {error.start}") from error


def _decode(path: Path) -> str:
    # Not read_text: it would make one kind of line end of all.
    return path.read_bytes().decode("utf-8-sig")


def _rows(name: str, dataset: DatasetInput) -> Iterator[Row]:
    path, columns = dataset.files[name], dataset.columns or Columns()
    if dataset.format == "parquet":
        return read_parquet_rows(path, columns, split=name, task=dataset.task)
    return read_rows(path, dataset.format, columns, split=name, task=dataset.task)
