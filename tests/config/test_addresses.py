"""Addresses on the command line."""

import pytest

from trifcgi.config import TcpAddress, UnixAddress, parse_address
from trifcgi.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", TcpAddress("127.0.0.1", 9000)),
        ("localhost:1", TcpAddress("localhost", 1)),
        ("[::1]:9000", TcpAddress("::1", 9000)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock")),
        ("unix:app.sock", UnixAddress("app.sock")),
    ],
)
def test_addresses_are_read_and_written_alike(
    text: str, address: TcpAddress | UnixAddress
) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "9000", "localhost", ":9000", "localhost:", "a:b", "h:0", "h:65536", "::1:9000",
     "unix:", "unix:\0", "h:\uff11", "h:-1", "h:999999999"],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an address: write HOST:PORT"):
        parse_address(text)
