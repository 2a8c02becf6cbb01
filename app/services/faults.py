"""Turn what a validator found into fault items: a JSON pointer, a stable code, a sentence."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaError
from jsonschema.validators import extend
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from app.core.errors import ErrorItem, InvalidInput, MalformedJson
from app.services import strict_json
from app.services.strict_json import MAX_FAULTS

M = TypeVar("M", bound=BaseModel)
# Counted before it is parsed: a value of two bytes costs a kilobyte by the time that it is known to be wrong.
# The longest lists that a spec may have, two of a thousand rows, are 14,000 with every default spelt out.
MAX_VALUES = 20_000
_SHOWN_CHARACTERS = 80
_SECRET = "secret"  # noqa: S105 - a key, and what it holds ends in the logs of whoever sent it


def read_json(data: bytes, model: type[M], error: type[InvalidInput], *, what: str) -> M:
    """Read a JSON body as `model`; raises MalformedJson, or `error` with at most MAX_FAULTS items.

    One of more than MAX_VALUES values is refused unread; commas and brackets in texts count too.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        detail = f"holds more than {MAX_VALUES} values, counted by their commas and opening brackets"
        raise refusal(error, [ErrorItem(pointer="", code="too_many_values", detail=detail)], what=what)
    try:
        parsed = strict_json.parse(data)
    except strict_json.NotJson as reason:
        raise MalformedJson(f"{what} is not JSON: {reason}") from reason
    if parsed.faults:
        raise refusal(error, parsed.faults, what=what)
    try:
        return model.model_validate_json(data)
    except ValidationError as reason:
        raise refusal(error, from_pydantic(reason), what=what) from reason


def refusal(error: type[InvalidInput], items: Iterable[ErrorItem], *, what: str) -> InvalidInput:
    """Make one error of the first MAX_FAULTS faults; its sentence repeats the first."""
    faults = tuple(islice(items, MAX_FAULTS))
    first = f"{faults[0].pointer or 'the whole'}: {faults[0].detail}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return error(f"{what} is not valid: {first}{more}", errors=faults)


def from_pydantic(error: ValidationError, *, at: str = "") -> tuple[ErrorItem, ...]:
    """Return one item for each of the first MAX_FAULTS faults that pydantic found."""
    return tuple(
        ErrorItem(
            pointer=at + strict_json.pointer(*_place(fault["loc"])),
            code=fault["type"],
            detail=_sentence(fault),
        )
        for fault in error.errors(include_url=False, include_context=False)[:MAX_FAULTS]
    )


def from_schema(
    schema: Mapping[str, JsonValue], params: Mapping[str, JsonValue], *, at: str
) -> tuple[ErrorItem, ...]:
    """Check parameters against a JSON Schema 2020-12 and return one item a fault, MAX_FAULTS at most."""
    found = islice(_Validator(dict(schema)).iter_errors(dict(params)), MAX_FAULTS)
    in_order = sorted(found, key=lambda fault: list(map(str, fault.path)))
    return tuple(islice((item for fault in in_order for item in _schema_items(fault, at)), MAX_FAULTS))


def _is_integer(_: object, value: object) -> bool:
    # JSON Schema takes 1.0 for an integer; the strict models of the worker do not.
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = extend(  # type: ignore[no-untyped-call]  # its stubs have no types
    Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
)


def _schema_items(fault: SchemaError, at: str) -> Iterator[ErrorItem]:
    place = at + strict_json.pointer(*fault.absolute_path)
    if fault.validator == "additionalProperties" and isinstance(fault.instance, dict):
        known = sorted(fault.schema.get("properties", {})) if isinstance(fault.schema, dict) else []
        exist = f"there are: {', '.join(known)}" if known else "it takes none"
        for name in fault.instance:
            if name not in known:
                yield ErrorItem(
                    pointer=place + strict_json.pointer(name),
                    code="extra_forbidden",
                    detail=f"there is no parameter {name[:_SHOWN_CHARACTERS]!r}; {exist}",
                )
    else:
        yield ErrorItem(pointer=place, code=f"schema_{fault.validator}", detail=fault.message[:300])


def _place(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    # A fault of a dictionary's key has its marker "[key]" after the key itself.
    return loc[:-1] if loc and loc[-1] == "[key]" else loc


def _sentence(fault: ErrorDetails) -> str:
    """Say what is wrong and, unless a key on the way is a secret's, what was found."""
    message, code, found = fault["msg"], fault["type"], fault["input"]
    if code == "value_error":
        return message.removeprefix("Value error, ")
    if code in ("missing", "extra_forbidden") or _SECRET in fault["loc"] or isinstance(found, dict | list):
        return message
    text = ascii(found)
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
    return f"{message}; found {shown}"
