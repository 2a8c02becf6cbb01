"""A service that only this machine reaches answers no page that makes its own name lead here."""

import pytest
from pydantic import ValidationError

from app.core.config import Settings
from tests.app.api.test_problems import check_problem

DATABASES = ("sqlite",)  # another one makes no difference here


def ask(client, host: str):
    return client.get("/livez", headers={"Host": host})


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]",
        "[::1]:8000",
    ],
)
def test_this_machine_by_any_of_its_names_is_answered_on_any_port(serve, host):
    assert ask(serve(allowed_hosts=None), host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "evil.example:127.0.0.1",
        "localhost@evil.example",
        "localhost.",
        "testserver",
        "",
    ],
)
def test_another_host_is_refused_on_loopback(serve, host):
    problem = check_problem(ask(serve(allowed_hosts=None), host), 421, "misdirected_request")
    assert "localhost" in problem["detail"]
    assert "SECATEUR_ALLOWED_HOSTS" in problem["detail"]


def test_nothing_is_done_for_another_host(serve):
    client = serve(allowed_hosts=None)
    sent = client.post("/v1/webhooks", json={"url": "https://a.example/"}, headers={"Host": "evil.example"})
    check_problem(sent, 421, "misdirected_request")
    listed = client.get("/v1/webhooks", headers={"Host": "localhost"})
    assert listed.json()["data"] == []


def test_the_settings_name_more_hosts(serve):
    client = serve(allowed_hosts=["Prune.example"])
    assert ask(client, "prune.example:443").status_code == 200
    assert ask(client, "localhost").status_code == 200
    assert ask(client, "evil.example").status_code == 421


def test_the_address_that_it_listens_on_is_its_own(serve):
    assert ask(serve(allowed_hosts=None, host="127.0.0.2"), "127.0.0.2:8000").status_code == 200


@pytest.mark.parametrize("name", ["https://prune.example", "prune.example:443", ""])
def test_a_name_that_no_host_can_match_is_no_setting(name):
    with pytest.raises(ValidationError, match="allowed_hosts"):
        Settings(allowed_hosts=[name])


@pytest.mark.parametrize(("allowed", "status"), [(None, 200), (["prune.example"], 421)])
def test_where_other_machines_ask_any_host_will_do_unless_some_are_named(serve, allowed, status):
    client = serve(allowed_hosts=allowed, host="0.0.0.0", allow_anonymous_network=True)
    assert ask(client, "whatever.example").status_code == status
    assert ask(client, "127.0.0.1:8000").status_code == 200
