"""Parse JSON strictly: UTF-8, no name twice, no NaN, no NUL, no lone surrogate, bounded depth."""

import json
from dataclasses import dataclass

from pydantic import JsonValue

from app.core.errors import ErrorItem

MAX_DEPTH = 32


class NotJson(ValueError):
    """The bytes are not JSON at all."""


@dataclass(frozen=True)
class Parsed:
    """A JSON value, and what is wrong with it although it could be read."""

    value: JsonValue
    faults: tuple[ErrorItem, ...]


class _Object(dict[str, JsonValue]):
    """A JSON object that remembers which names came twice."""

    repeated: tuple[str, ...] = ()


class _NotFinite(float):
    """NaN, an infinity, or a number too large to be finite, as it was written."""

    text: str


def parse(data: bytes, *, max_depth: int = MAX_DEPTH) -> Parsed:
    """Read one JSON value and list its faults, each with a pointer; raises NotJson."""
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
    faults: list[ErrorItem] = []
    _find_faults(value, "", faults, depth_left=max_depth)
    return Parsed(value, tuple(faults))


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


def _find_faults(value: JsonValue, at: str, faults: list[ErrorItem], *, depth_left: int) -> None:
    if isinstance(value, dict | list) and depth_left == 0:
        faults.append(ErrorItem(pointer=at, code="too_deep", detail=f"nested over {MAX_DEPTH} levels"))
    elif isinstance(value, _Object):
        _find_object_faults(value, at, faults, depth_left=depth_left)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _find_faults(item, f"{at}/{i}", faults, depth_left=depth_left - 1)
    elif isinstance(value, _NotFinite):
        detail = f"expected a finite number, found {value.text[:40]}"
        faults.append(ErrorItem(pointer=at, code="finite_number", detail=detail))
    elif isinstance(value, str) and not is_storable(value):
        faults.append(
            ErrorItem(pointer=at, code="bad_text", detail="text may not hold NUL or half a surrogate pair")
        )


def _find_object_faults(value: _Object, at: str, faults: list[ErrorItem], *, depth_left: int) -> None:
    for name in value.repeated:
        detail = f"the name {name[:100]!r} occurs twice"
        faults.append(ErrorItem(pointer=at + pointer(name), code="duplicate_name", detail=detail))
    for name, item in value.items():
        if not is_storable(name):
            faults.append(
                ErrorItem(
                    pointer=at, code="bad_text", detail="a name may not hold NUL or half a surrogate pair"
                )
            )
        _find_faults(item, at + pointer(name), faults, depth_left=depth_left - 1)
