"""Where webhooks may lead: public addresses over https, and nothing that only looks like one."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.addresses import RefusedAddress, RefusedUrl, SendingRules, check_address, check_url

PUBLIC = SendingRules()
LOCAL = SendingRules(loopback=True)

REFUSED = [
    "http://example.org/x",
    "ftp://example.org/x",
    "https://",
    "https:///x",
    "example.org/x",
    "https://me:secret@example.org/",
    "https://me@example.org/",
    "https://example.org/#x",
    "https://example.org:22/",
    "https://example.org:80/",
    "https://example.org:99999/",
    "https://exam ple.org/",
    "https://example.org/\r\nHost: x",
    "https://example.org\\@evil.org/",
    "https://localhost:3000/",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://10.0.0.1/",
    "https://172.16.3.4/",
    "https://192.168.1.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://100.64.0.1/",
    "https://0.0.0.0/",
    "https://224.0.0.1/",
    "https://255.255.255.255/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:a9fe:a9fe]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:53aa:64c:0:0:80ff:fffe]/",
    "https://[fd00::1]/",
    "https://[fe80::1]/",
    "https://[ff02::1]/",
    "https://exämple.org/",
    "https://-bad-.org/",
    "https://" + "a" * 3000,
    "https://" + "a" * 64 + ".example.org/",
    "https://hooks." + "a" * 64 + "/",
]


@pytest.mark.parametrize("url", REFUSED)
def test_what_leads_inside_or_cannot_be_is_refused(url):
    with pytest.raises(RefusedUrl, match="expected"):
        check_url(url, PUBLIC)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "https://hooks.example.org/a/b?c=d",
        "https://example.org:8443/",
        "https://93.184.216.34/",
        "https://[2606:2800:220:1:248:1893:25c8:1946]/",
        "https://xn--exmple-cua.org/",
    ],
)
def test_public_places_are_taken(url):
    check_url(url, PUBLIC)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://localhost:9/", "https://[::1]:9/"])
def test_this_machine_is_taken_where_the_rules_allow_it_and_nothing_else_inside(url):
    check_url(url, LOCAL)
    for inside in ("http://10.0.0.1/", "https://192.168.0.1/", "http://example.org/"):
        with pytest.raises(RefusedUrl):
            check_url(inside, LOCAL)


def test_more_ports_can_be_allowed():
    check_url("https://example.org:9443/", SendingRules(ports=(9443,)))
    with pytest.raises(RefusedUrl, match="9443"):
        check_url("https://example.org/", SendingRules(ports=(9443,)))


@given(address=st.ip_addresses())
def test_no_address_that_is_not_global_passes_in_any_form(address):
    def passes(text: str) -> bool:
        try:
            check_address(text, PUBLIC)
        except RefusedAddress:
            return False
        return True

    if not address.is_global or address.is_multicast:
        assert not passes(str(address))
    if isinstance(address, ipaddress.IPv4Address):
        mapped = ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
        assert passes(str(mapped)) == passes(str(address))
        assert not passes(str(ipaddress.IPv6Address(b"\0\x64\xff\x9b" + b"\0" * 8 + address.packed)))
