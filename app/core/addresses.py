"""Which URLs and addresses the service may send to: a webhook must not reach into the network it runs in."""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_MAX_URL_CHARACTERS = 2000
# RFC 6052: an IPv4 address in the last 32 bits, which a NAT64 gateway would reach.
_NAT64 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
# RFC 1035, 2.3.4: a label has at most 63 octets; a longer one is an error when the name is resolved.
_HOST = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(?:\.[A-Za-z0-9_-]{1,63})*\.?"
)
# What some resolvers take for an IPv4 address: 127.1, 2130706433, 0x7f000001, 0177.0.0.1.
_NUMBER = re.compile(r"(?:0[xX][0-9A-Fa-f]*|[0-9]+)")


class RefusedUrl(ValueError):
    """A URL that nothing is sent to; the message says what was expected and found."""


class RefusedAddress(Exception):
    """A host that resolves to an address that nothing is sent to."""


@dataclass(frozen=True)
class SendingRules:
    """Where to send: https on these ports to public addresses; with `loopback`, to this machine too."""

    ports: Collection[int] = (443, 8443)
    loopback: bool = False


def check_url(url: str, rules: SendingRules) -> None:
    """Raise RefusedUrl unless messages may be sent to the URL; its name is resolved when one is sent."""
    if len(url) > _MAX_URL_CHARACTERS or not url.isascii() or re.search(r"[\s\x00-\x20\x7f\\]", url):
        raise RefusedUrl(f"expected at most {_MAX_URL_CHARACTERS} visible ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RefusedUrl("expected https://host/path") from error
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise RefusedUrl("expected https://host/path")
    if parts.username is not None or parts.password is not None:
        raise RefusedUrl("expected a URL without user and password: signatures prove who sends")
    if parts.fragment:
        raise RefusedUrl("expected a URL without a fragment")
    _check_place(parts, port, rules)


def check_address(text: str, rules: SendingRules) -> None:
    """Raise RefusedAddress unless messages may be sent to the IP address."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if rules.loopback and _unwrap(address).is_loopback:
        return
    if not _is_public(address):
        raise RefusedAddress("the name leads to an address that is not public")


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, by its address or as `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_place(parts: SplitResult, port: int | None, rules: SendingRules) -> None:
    host = parts.hostname or ""
    is_here = rules.loopback and is_loopback(host)
    if parts.scheme == "http" and not is_here:
        raise RefusedUrl("expected https: http is for this machine alone, where the settings allow it")
    if not is_here and (port or 443) not in rules.ports:
        raise RefusedUrl(
            f"expected one of the ports {', '.join(map(str, sorted(rules.ports)))}, found {port}"
        )
    try:
        check_address(host, rules)
    except RefusedAddress as error:
        raise RefusedUrl(f"expected a public address, found {host}") from error
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2]
        if not _HOST.fullmatch(host) or _NUMBER.fullmatch(last):
            raise RefusedUrl("expected a host's name, or an IP address as it is usually written") from None


def _is_public(address: Address) -> bool:
    inner = _unwrap(address)
    if inner is not address:
        return _is_public(inner)
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
        and not any(address.version == net.version and address in net for net in _NAT64)
    )


def _unwrap(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    return address
