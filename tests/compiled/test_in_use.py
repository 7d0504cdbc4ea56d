"""That the tests ran on the codec that was meant: scripts/test runs them on both.

``EXPECTED_CODEC`` says which; without it this is a checkout, whose codec is pure Python.
"""

import os
from importlib import import_module
from typing import Final

import pytest

from tests.compiled.codec import module_names
from trifcgi._compiled import is_compiled
from trifcgi.protocol import Connection, ProtocolError, Side, decode_pairs

EXPECTED: Final = os.environ.get("EXPECTED_CODEC", "pure Python")


@pytest.mark.parametrize("module", module_names())
def test_each_module_is_of_the_expected_kind(module: str) -> None:
    assert EXPECTED in {"compiled", "pure Python"}
    assert is_compiled(module) == (EXPECTED == "compiled")


@pytest.mark.parametrize("module", ["trifcgi.protocol.events", "trifcgi.server.tasks"])
def test_what_is_not_listed_is_not_compiled(module: str) -> None:
    assert not is_compiled(module)


def test_what_the_package_offers_comes_from_those_modules() -> None:
    for offered in (Connection, decode_pairs):
        assert getattr(import_module(offered.__module__), offered.__name__) is offered
        assert offered.__module__ in module_names()


def test_compiled_functions_check_what_they_are_given() -> None:
    """Where pure Python goes on with anything that behaves like bytes."""
    block = bytearray(b"\x01\x01ab")
    if EXPECTED == "compiled":
        with pytest.raises(TypeError):
            decode_pairs(block)  # type: ignore[arg-type]
    else:
        assert decode_pairs(block) == [(b"a", b"b")]  # type: ignore[arg-type]


def test_a_connection_takes_any_bytes_like_object() -> None:
    for data in (b"\x02", bytearray(b"\x02"), memoryview(b"\x02")):
        connection = Connection(Side.APPLICATION)
        connection.receive_data(data)
        with pytest.raises(ProtocolError, match="version 2"):
            connection.receive_data(b"\x0b\0\0\0\0\0\0")
