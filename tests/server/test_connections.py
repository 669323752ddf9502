import pytest

from facegallery.server.connections import ADDRESS_CONNECTIONS, ConnectionLimits
from facegallery.server.meters import Meters
from facegallery.server.settings import Settings


def taken(limits, address, n):
    return sum(limits.enter(address) for _ in range(n))


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_an_address_is_one_of_ipv4_or_64_bits_of_ipv6(first, second, is_one):
    limits = ConnectionLimits(Settings(("x",), "::"), Meters())
    assert taken(limits, first, ADDRESS_CONNECTIONS + 5) == ADDRESS_CONNECTIONS
    assert limits.enter(second) is not is_one
    limits.leave(first)
    assert limits.enter(first)


def test_what_comes_from_a_proxy_of_this_machine_is_not_one_address():
    proxied = Settings(("x",), hosts=("faces.example",))
    assert taken(ConnectionLimits(proxied, Meters()), "127.0.0.1", 2 * ADDRESS_CONNECTIONS) == 2 * ADDRESS_CONNECTIONS
    for settings in (Settings(("x",)), Settings(("x",), "0.0.0.0", hosts=("faces.example",))):
        assert taken(ConnectionLimits(settings, Meters()), "127.0.0.1", 2 * ADDRESS_CONNECTIONS) == ADDRESS_CONNECTIONS
