"""Read the JSON files of a model folder: a bounded size, a bounded number of values, no name twice."""

from pathlib import Path

from pydantic import JsonValue

from app.core.errors import DuplicateKeys, InvalidModel, PickleRefused
from app.services import strict_json

# JSON is counted before it is parsed: a Python object costs up to fifty times its two bytes.
_MAX_COUNTS = {b"{": 250_000, b"[": 1_500_000, b",": 4_000_000}
_MAX_DEPTH = 12


def read_object(path: Path, name: str, *, max_bytes: int) -> dict[str, JsonValue]:
    """Return the object in a JSON file; raises InvalidModel, of the kind that says why."""
    size = path.stat().st_size
    if size > max_bytes:
        raise InvalidModel(f"{name} has {size} bytes; at most {max_bytes} are taken")
    data = path.read_bytes()
    if data[:1] == b"\x80" or data[:4] == b"PK\x03\x04":
        raise PickleRefused(
            f"{name} is a pickle or an archive, which could run code when read; expected JSON"
        )
    for character, most in _MAX_COUNTS.items():
        if data.count(character) > most:
            raise InvalidModel(f"{name} holds more than {most} times {character.decode()!r}")
    try:
        # A vocabulary may hold any character.
        parsed = strict_json.parse(data, max_depth=_MAX_DEPTH, takes_any_text=True)
    except strict_json.NotJson as error:
        raise InvalidModel(f"{name} is not JSON: {error}") from error
    for fault in parsed.faults:
        if fault.code == "duplicate_name":
            raise DuplicateKeys(f"{name}, at {fault.pointer}: {fault.detail}")
        raise InvalidModel(f"{name}, at {fault.pointer or 'its top'}: {fault.detail}")
    if not isinstance(parsed.value, dict):
        raise InvalidModel(f"{name} is not a JSON object")
    return parsed.value
