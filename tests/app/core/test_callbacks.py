"""Callbacks of a spec: a secret is one that messages can be signed with."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook as Signer

from app.core.callbacks import Callback

URL = "https://hooks.example.org/secateur"
_LENGTHS = range(32, 87)


@pytest.mark.parametrize("secret", ["whsec_" + "a" * length for length in _LENGTHS if length % 4 != 1])
def test_a_secret_that_is_taken_signs(secret):
    assert Callback(url=URL, secret=secret).secret == secret
    assert Signer(secret).sign("msg_1", datetime.now(UTC), "{}").startswith("v1,")


@pytest.mark.parametrize("length", [length for length in _LENGTHS if length % 4 == 1])
def test_a_secret_of_a_length_that_base64_never_has_is_refused(length):
    with pytest.raises(ValidationError, match="24 to 64 bytes in base64"):
        Callback(url=URL, secret="whsec_" + "a" * length)
