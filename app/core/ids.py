"""Make ids: a type prefix and a UUIDv7 in Crockford base32 (the TypeID form), sortable by time of birth."""

import uuid_utils

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """Return e.g. `job_01h455vb4pex5vsknk084sn02q`: 26 characters carry the 128 bits, highest first."""
    number = uuid_utils.uuid7().int
    return f"{prefix}_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
