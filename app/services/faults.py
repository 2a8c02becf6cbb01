"""Turn what a validator found into fault items: a JSON pointer, a stable code, a sentence."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError as SchemaError
from jsonschema.validators import extend
from pydantic import BaseModel, JsonValue, ValidationError

from app.core.errors import ErrorItem, InvalidInput, MalformedJson
from app.services import strict_json

M = TypeVar("M", bound=BaseModel)
_MAX_FAULTS = 100
_SHOWN_CHARACTERS = 80


def read_json(data: bytes, model: type[M], error: type[InvalidInput], *, what: str) -> M:
    """Read a JSON body as `model`; raises MalformedJson, or `error` with one item a fault."""
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
    """Make one error of all faults; its sentence repeats the first."""
    faults = tuple(items)
    first = f"{faults[0].pointer or 'the whole'}: {faults[0].detail}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return error(f"{what} is not valid: {first}{more}", errors=faults[:_MAX_FAULTS])


def from_pydantic(error: ValidationError, *, at: str = "") -> tuple[ErrorItem, ...]:
    """Return one item for each fault that pydantic found."""
    return tuple(
        ErrorItem(
            pointer=at + strict_json.pointer(*_place(fault["loc"])),
            code=fault["type"],
            detail=_sentence(fault["msg"], fault["type"], fault["input"]),
        )
        for fault in error.errors(include_url=False)
    )


def from_schema(
    schema: Mapping[str, JsonValue], params: Mapping[str, JsonValue], *, at: str
) -> tuple[ErrorItem, ...]:
    """Check parameters against a JSON Schema 2020-12 and return one item a fault."""
    found = sorted(
        _Validator(dict(schema)).iter_errors(dict(params)), key=lambda fault: list(map(str, fault.path))
    )
    return tuple(item for fault in found for item in _schema_items(fault, at))


def _is_integer(_: object, value: object) -> bool:
    # JSON Schema takes 1.0 for an integer; the strict models of the worker do not.
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = extend(  # type: ignore[no-untyped-call]  # its stubs have no types
    Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
)


def _schema_items(fault: SchemaError, at: str) -> list[ErrorItem]:
    place = at + strict_json.pointer(*fault.absolute_path)
    if fault.validator == "additionalProperties" and isinstance(fault.instance, dict):
        known = sorted(fault.schema.get("properties", {})) if isinstance(fault.schema, dict) else []
        exist = f"there are: {', '.join(known)}" if known else "it takes none"
        return [
            ErrorItem(
                pointer=place + strict_json.pointer(name),
                code="extra_forbidden",
                detail=f"there is no parameter {name[:_SHOWN_CHARACTERS]!r}; {exist}",
            )
            for name in fault.instance
            if name not in known
        ]
    return [ErrorItem(pointer=place, code=f"schema_{fault.validator}", detail=fault.message[:300])]


def _place(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    # A fault of a dictionary's key has its marker "[key]" after the key itself.
    return loc[:-1] if loc and loc[-1] == "[key]" else loc


def _sentence(message: str, code: str, found: Any) -> str:  # Any: the faulty JSON value
    if code == "value_error":
        return message.removeprefix("Value error, ")
    if code in ("missing", "extra_forbidden") or isinstance(found, dict | list):
        return message
    text = ascii(found)
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
    return f"{message}; found {shown}"
