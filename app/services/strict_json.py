"""Parse JSON strictly: UTF-8, no name twice, no NaN, no NUL, no lone surrogate, bounded depth."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from pydantic import JsonValue

from app.core.errors import ErrorItem

MAX_DEPTH = 32
# Of what is wrong everywhere, the first places tell enough; a fault is larger than the byte it is about.
MAX_FAULTS = 100
_POINTER_CHARACTERS = 1000
_BAD_TEXT = "bad_text"


class NotJson(ValueError):
    """The bytes are not JSON at all."""


@dataclass(frozen=True)
class Parsed:
    """A JSON value, and what is wrong with it although it could be read: the first MAX_FAULTS places."""

    value: JsonValue
    faults: tuple[ErrorItem, ...]


class _Object(dict[str, JsonValue]):
    """A JSON object that remembers which names came twice."""

    repeated: tuple[str, ...] = ()


class _NotFinite(float):
    """NaN, an infinity, or a number too large to be finite, as it was written."""

    text: str


class _Fault(NamedTuple):
    """What is wrong at a place, given as the keys on the way: most of them are never written out."""

    keys: tuple[str | int, ...]
    code: str
    detail: str


def parse(data: bytes, *, max_depth: int = MAX_DEPTH, takes_any_text: bool = False) -> Parsed:
    """Read one JSON value and list its faults, each with a pointer; raises NotJson.

    With `takes_any_text` a NUL or half a surrogate pair is no fault.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_read_object,
            parse_constant=_not_finite,
            parse_float=_read_float,
        )
    except RecursionError as error:
        raise NotJson(f"it is nested deeper than {max_depth} levels") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both
        raise NotJson(str(error)) from error
    found = _find_faults(value, (), depth_left=max_depth)
    told = (fault for fault in found if not (takes_any_text and fault.code == _BAD_TEXT))
    return Parsed(value, tuple(map(_item, islice(told, MAX_FAULTS))))


def pointer(*keys: str | int) -> str:
    """Return the JSON pointer (RFC 6901) to a place, given the keys on the way."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def is_storable(text: str) -> bool:
    """Tell whether the text has neither NUL nor a lone surrogate: databases and UTF-8 refuse both."""
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def _read_object(pairs: list[tuple[str, JsonValue]]) -> _Object:
    found = _Object(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        found.repeated = tuple(dict.fromkeys(k for k, _ in pairs if k in seen or seen.add(k)))  # type: ignore[func-returns-value]  # add returns None on purpose
    return found


def _not_finite(text: str) -> _NotFinite:
    value = _NotFinite("nan")
    value.text = text
    return value


def _read_float(text: str) -> float:
    value = float(text)
    return value if value - value == 0.0 else _not_finite(text)


def _item(fault: _Fault) -> ErrorItem:
    place = pointer(*fault.keys)
    shown = place if len(place) <= _POINTER_CHARACTERS else place[:_POINTER_CHARACTERS] + "…"
    return ErrorItem(pointer=shown, code=fault.code, detail=fault.detail)


def _find_faults(value: JsonValue, at: tuple[str | int, ...], *, depth_left: int) -> Iterator[_Fault]:
    if isinstance(value, dict | list) and depth_left == 0:
        yield _Fault(at, "too_deep", f"nested over {MAX_DEPTH} levels")
    elif isinstance(value, _Object):
        yield from _find_object_faults(value, at, depth_left=depth_left)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _find_faults(item, (*at, i), depth_left=depth_left - 1)
    elif isinstance(value, _NotFinite):
        yield _Fault(at, "finite_number", f"expected a finite number, found {value.text[:40]}")
    elif isinstance(value, str) and not is_storable(value):
        yield _Fault(at, _BAD_TEXT, "text may not hold NUL or half a surrogate pair")


def _find_object_faults(value: _Object, at: tuple[str | int, ...], *, depth_left: int) -> Iterator[_Fault]:
    for name in value.repeated:
        yield _Fault((*at, name), "duplicate_name", f"the name {name[:100]!r} occurs twice")
    for name, item in value.items():
        if not is_storable(name):
            yield _Fault(at, _BAD_TEXT, "a name may not hold NUL or half a surrogate pair")
        yield from _find_faults(item, (*at, name), depth_left=depth_left - 1)
