"""Passwords never leave in a URL that is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.urls import mask_url

SAFE = st.text(alphabet=st.characters(codec="ascii", categories=("Lu", "Ll", "Nd")), min_size=8, max_size=30)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql+psycopg://u:hunter2@db/x", "postgresql+psycopg://u:***@db/x"),
        ("redis://:hunter2@redis:6379/0", "redis://:***@redis:6379/0"),
        ("postgresql:///x?host=/run&password=hunter2&a=1", "postgresql:///x?host=/run&password=***&a=1"),
        ("redis+socket:///run/valkey.sock", "redis+socket:///run/valkey.sock"),
        ("sqlite:////data/secateur.db", "sqlite:////data/secateur.db"),
        ("http://127.0.0.1:8000/a:b@c", "http://127.0.0.1:8000/a:b@c"),
    ],
)
def test_only_the_password_is_replaced(url, masked):
    assert mask_url(url) == masked


@given(user=SAFE, password=SAFE, host=SAFE)
def test_no_password_survives_in_a_sentence(user, password, host):
    shown = mask_url(
        f"cannot reach 'redis://{user}:{password}@{host}:6379/0', or s3://{user}:{password}@{host}"
    )
    assert f":{password}@" not in shown
    assert shown.count(f"{user}:***@{host}") == 2
