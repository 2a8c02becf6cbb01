"""Turn text into the token ids that a model was trained with, by its own tokenizer.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from app.core.errors import InvalidModel

# Library and file agree on "no limit" by a number that no text reaches.
_NO_LIMIT = 2**31


@dataclass(frozen=True)
class Encoded:
    """Token ids and types of each text, its special tokens included; how many texts were cut."""

    ids: list[list[int]]
    types: list[list[int]]
    truncated: int


class TextTokenizer:
    """A tokenizer.json; `pad_id` fills up batches, `max_tokens` is what its config says the model takes."""

    def __init__(self, tokenizer: Tokenizer, *, pad_id: int, max_tokens: int | None) -> None:
        self._tokenizer = tokenizer
        self.pad_id = pad_id
        self.max_tokens = max_tokens

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None, *, max_tokens: int) -> Encoded:
        """Encode texts, or pairs of them, cut to `max_tokens` with their special tokens."""
        self._tokenizer.enable_truncation(max_tokens)
        given = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        found = self._tokenizer.encode_batch(given)
        return Encoded(
            [one.ids for one in found],
            [one.type_ids for one in found],
            sum(bool(one.overflowing) for one in found),
        )

    def encode_document(self, text: str) -> list[int]:
        """Encode a whole document as it stands, without special tokens."""
        self._tokenizer.no_truncation()
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def count_special(self, *, are_pairs: bool) -> int:
        """Return how many special tokens each text, or pair, gets."""
        count: int = self._tokenizer.num_special_tokens_to_add(are_pairs)
        return count


def read_tokenizer(
    path: Path, config_path: Path | None, *, pad_id: int | None, eos_id: int | None
) -> TextTokenizer:
    """Read a tokenizer.json and what its config says; `pad_id` and `eos_id` are those of the model's config.

    Raises InvalidModel when the library cannot read it.
    """
    text = path.read_text("utf-8")
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more specific
        raise InvalidModel(f"tokenizer.json cannot be read by the tokenizers library: {error}") from error
    config = json.loads(config_path.read_bytes()) if config_path else {}
    own_pad = tokenizer.padding["pad_id"] if tokenizer.padding else None
    tokenizer.no_padding()
    named_pad = _find_token(tokenizer, config.get("pad_token"))
    choices = (pad_id, named_pad, own_pad, eos_id, _find_token(tokenizer, config.get("eos_token")), 0)
    limit = config.get("model_max_length")
    return TextTokenizer(
        tokenizer,
        pad_id=next(choice for choice in choices if choice is not None),
        max_tokens=int(limit) if isinstance(limit, int | float) and 1 < limit < _NO_LIMIT else None,
    )


def _find_token(tokenizer: Tokenizer, token: object) -> int | None:
    # A token is written as its text, or as an object with its text and how it strips spaces.
    content = token.get("content") if isinstance(token, dict) else token
    found: int | None = tokenizer.token_to_id(content) if isinstance(content, str) else None
    return found
