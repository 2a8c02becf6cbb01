"""Turn text into the token ids that a model was trained with, by its own tokenizer.json."""

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from app.core.errors import InvalidModel

# Library and file agree on "no limit" by a number that no text reaches.
_NO_LIMIT = 2**31
_TEXTS_AT_ONCE = 4096
_CHARACTERS_AT_ONCE = 2**23
_MAX_ID = 2**31 - 1
_TEXT = "a text"
_NO_ENCODING = "cannot encode the dataset's text"


@dataclass(frozen=True)
class Encoded:
    """Texts one after the other: ids and types of all tokens, how many each text has, how many were cut."""

    ids: "array[int]"
    types: "array[int]"
    lengths: list[int]
    truncated: int


class TextTokenizer:
    """A tokenizer.json; `pad_id` fills up batches, `max_tokens` is what its config says the model takes.

    Of a text that is too long the beginning is kept, or the end, where `cuts_left`.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, pad_id: int, max_tokens: int | None, cuts_left: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._cuts_left = cuts_left
        self.pad_id = pad_id
        self.max_tokens = max_tokens

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None, *, max_tokens: int) -> Encoded:
        """Encode texts, or pairs of them, cut to `max_tokens` with their special tokens.

        Raises InvalidModel where the tokenizer has no token for a text.
        """
        self._tokenizer.enable_truncation(max_tokens, direction="left" if self._cuts_left else "right")
        found = Encoded(array("i"), array("i"), [], 0)
        truncated = 0
        # Piece by piece: the library keeps the place of each token in its text, many times what we keep.
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = texts[start : start + _TEXTS_AT_ONCE]
            beside = None if pairs is None else pairs[start : start + _TEXTS_AT_ONCE]
            given = list(part) if beside is None else list(zip(part, beside, strict=True))
            truncated += _guarded(partial(self._add, given, found), _NO_ENCODING)
        return replace(found, truncated=truncated)

    def encode_document(self, text: str) -> "array[int]":
        """Encode a whole document as it stands, without special tokens.

        A long one is encoded in pieces that end with a line, for the memory that it would take at once.
        Raises InvalidModel where the tokenizer has no token for the text.
        """
        self._tokenizer.no_truncation()
        ids = array("i")
        for piece in _cut(text):
            _guarded(partial(self._add_piece, piece, ids), _NO_ENCODING)
        return ids

    def count_special(self, *, are_pairs: bool) -> int:
        """Return how many special tokens each text, or pair, gets."""
        count: int = self._tokenizer.num_special_tokens_to_add(are_pairs)
        return count

    def _add(self, given: list[Any], found: Encoded) -> int:  # Any: texts, or pairs of them
        """Encode some texts behind those that were found before; returns how many were cut."""
        truncated = 0
        for one in self._tokenizer.encode_batch(given):
            found.ids.extend(one.ids)
            found.types.extend(one.type_ids)
            found.lengths.append(len(one.ids))
            truncated += bool(one.overflowing)
        return truncated

    def _add_piece(self, piece: str, ids: "array[int]") -> None:
        ids.extend(self._tokenizer.encode(piece, add_special_tokens=False).ids)


def read_tokenizer(
    path: Path, config_path: Path | None, *, pad_id: int | None, eos_id: int | None, vocabulary: int | None
) -> TextTokenizer:
    """Read a tokenizer.json and what its config says; `pad_id` and `eos_id` are those of the model's config.

    A padding beyond the model's `vocabulary` is not taken: one was added, and the embedding left as it was.
    Raises InvalidModel when the library cannot read it, or breaks on a text.
    """
    text = path.read_text("utf-8")
    tokenizer = _guarded(partial(Tokenizer.from_str, text), "cannot be read by the tokenizers library")
    _guarded(partial(_try_out, tokenizer), "cannot encode a text")
    if getattr(tokenizer.model, "dropout", None):
        # It breaks words up at random, for training: what is compared must be the same text each time.
        tokenizer.model.dropout = None
    config = json.loads(config_path.read_bytes()) if config_path else {}
    side = config.get("truncation_side") or (tokenizer.truncation or {}).get("direction")
    own_pad = tokenizer.padding["pad_id"] if tokenizer.padding else None
    tokenizer.no_padding()
    named_pad = _find_token(tokenizer, config.get("pad_token"))
    choices = (pad_id, named_pad, own_pad, eos_id, _find_token(tokenizer, config.get("eos_token")), 0)
    limit = config.get("model_max_length")
    return TextTokenizer(
        tokenizer,
        # Some configs say that there is no such token by a negative number.
        pad_id=next(
            (choice for choice in choices if choice is not None and 0 <= choice < (vocabulary or _MAX_ID)), 0
        ),
        cuts_left=isinstance(side, str) and side.lower() == "left",
        max_tokens=int(limit) if isinstance(limit, int | float) and 1 < limit < _NO_LIMIT else None,
    )


def _find_token(tokenizer: Tokenizer, token: object) -> int | None:
    # A token is written as its text, or as an object with its text and how it strips spaces.
    content = token.get("content") if isinstance(token, dict) else token
    found: int | None = tokenizer.token_to_id(content) if isinstance(content, str) else None
    return found


def _cut(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _CHARACTERS_AT_ONCE:
        end = text.rfind("\n", start, start + _CHARACTERS_AT_ONCE) + 1
        end = end if end > start else start + _CHARACTERS_AT_ONCE
        yield text[start:end]
        start = end
    yield text[start:]


def _try_out(tokenizer: Tokenizer) -> None:
    """Encode a text, so that a file that breaks the library is found before there is a dataset."""
    found: list[int] = []
    # It may lack a token for this text and have one for each of a dataset's.
    with suppress(Exception):
        one = tokenizer.encode(_TEXT)
        found = [*one.ids, *one.type_ids]
    array("i", found)


def _guarded(use: Callable[[], Any], fault: str) -> Any:  # Any: the library has no types
    try:
        return use()
    except MemoryError:
        # The machine's fault, not the tokenizer's.
        raise
    except OverflowError as error:
        raise InvalidModel(f"tokenizer.json {fault}: an id in it is above {_MAX_ID}") from error
    except BaseException as error:  # the library raises nothing more specific
        # A panic of its Rust code is no Exception, and of a class that cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InvalidModel(f"tokenizer.json {fault}: {error}") from error
