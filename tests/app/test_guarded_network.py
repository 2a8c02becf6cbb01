"""The guarded network: what a name leads to is checked before anything is sent, once, and for good."""

import asyncio
import socket

import httpcore
import pytest

from app.core.addresses import RefusedAddress, SendingRules
from app.guarded_network import GuardedNetwork
from tests.support.receiver import Receiver

NAME = "hooks.example.org"


@pytest.fixture
def resolver(monkeypatch):
    """A name server that gives one answer after the other; returns them and what was asked."""
    answers: list[list[str]] = []
    asked: list[str] = []
    real = socket.getaddrinfo

    def answer(host, port, *rest, **named):
        if host != NAME:
            return real(host, port, *rest, **named)
        asked.append(host)
        found = answers.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return answers, asked


def connect(rules: SendingRules, port: int, host: str = NAME) -> str:
    """Connect, and return the address of the peer."""

    async def run() -> str:
        stream = await GuardedNetwork(rules).connect_tcp(host, port, timeout=5.0)
        peer = stream.get_extra_info("server_addr")[0]
        await stream.aclose()
        return peer

    return asyncio.run(run())


def test_one_inner_address_among_public_ones_is_enough_to_refuse(resolver):
    answers, _ = resolver
    answers.append(["93.184.216.34", "10.0.0.1"])
    with pytest.raises(RefusedAddress):
        connect(SendingRules(), 443)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd00::1"])
def test_a_name_that_leads_inside_is_refused(resolver, address):
    answers, _ = resolver
    answers.append([address])
    with pytest.raises(RefusedAddress):
        connect(SendingRules(), 443)


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked(resolver):
    answers, asked = resolver
    with Receiver() as receiver:
        # A second question would be answered otherwise, which is how names are rebound.
        answers += [["127.0.0.1"], ["127.0.0.2"]]
        port = int(receiver.url.rpartition(":")[2])
        assert connect(SendingRules(loopback=True), port) == "127.0.0.1"
    assert asked == [NAME]


def test_a_name_without_an_address_is_a_failed_connection():
    with pytest.raises(httpcore.ConnectError, match="has no address"):
        connect(SendingRules(), 443, "nowhere.invalid")


def test_sockets_of_this_machine_are_out_of_reach():
    with pytest.raises(RefusedAddress):
        asyncio.run(GuardedNetwork(SendingRules(loopback=True)).connect_unix_socket("/run/x.sock"))
