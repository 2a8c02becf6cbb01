"""The network as webhooks see it: every address is checked, and so is the peer that was connected to."""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any

import httpcore

from app.core.addresses import RefusedAddress, SendingRules, check_address


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves a name once and connects to what was checked: a name that changes in between gains nothing."""

    def __init__(self, rules: SendingRules) -> None:
        self._rules = rules
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,  # Any: httpcore's own type
    ) -> httpcore.AsyncNetworkStream:
        """Raise RefusedAddress when any address of the host is one that nothing is sent to."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"the name {host} has no address") from error
        addresses = [str(info[4][0]) for info in found]
        for address in addresses:
            check_address(address, self._rules)
        stream = await self._network.connect_tcp(addresses[0], port, timeout, local_address, socket_options)
        peer = stream.get_extra_info("server_addr")
        try:
            check_address(str(peer[0]), self._rules)
        except RefusedAddress:
            await stream.aclose()
            raise
        return stream

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Any] | None = None,  # Any: httpcore's own type
    ) -> httpcore.AsyncNetworkStream:
        raise RefusedAddress("nothing is sent to a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)
