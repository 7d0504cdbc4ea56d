"""Reading and showing values of every kind."""

import ipaddress
import math
from typing import Any

import pytest

from trifcgi.config.kinds import (
    Bytes,
    Choice,
    Count,
    Flag,
    Kind,
    Mode,
    Mount,
    Networks,
    Seconds,
    Text,
)

PORT = Count("a port", least=0, most=65535)
COLOURS = Choice(("red", "green", "blue"))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Text("a host"), "localhost", "localhost"),
        (PORT, "0", 0),
        (PORT, "65535", 65535),
        (Count("a number"), "1", 1),
        (Seconds(), "30", 30.0),
        (Seconds(), "0.5", 0.5),
        (Seconds(), ".5", 0.5),
        (Seconds(), "30s", 30.0),
        (Seconds(), "500ms", 0.5),
        (Seconds(), "5m", 300.0),
        (Seconds(), "5 min", 300.0),
        (Seconds(), "2h", 7200.0),
        (Seconds(), "none", math.inf),
        (Seconds(), "INF", math.inf),
        (Seconds(zero=True), "0", 0.0),
        (Bytes(), "1048576", 1 << 20),
        (Bytes(), "10M", 10 << 20),
        (Bytes(), "1 MiB", 1 << 20),
        (Bytes(), "64k", 64 << 10),
        (Bytes(), "2GiB", 2 << 30),
        (Bytes(), "1MB", 1_000_000),
        (Bytes(), "7b", 7),
        (Bytes(unlimited=True), "none", None),
        (Bytes(least=0), "0", 0),
        (Mode(), "660", 0o660),
        (Mode(), "0660", 0o660),
        (Mode(), "0o600", 0o600),
        (COLOURS, "Green", "green"),
        (Mount(), "/app", "/app"),
        (Mount(), "/app/", "/app"),
        (Mount(), "/", ""),
        (Networks(), "10.0.0.7", (ipaddress.ip_network("10.0.0.7"),)),
        (
            Networks(),
            "10.0.0.0/8, fd00::/8",
            (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")),
        ),
    ],
)
def test_text_is_read(kind: Kind[Any], text: str, value: object) -> None:
    assert kind.parse(text) == value
    assert kind.from_toml(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Text("a host"), ""),
        (Text("a host"), "a\0b"),
        (PORT, "65536"),
        (PORT, "-1"),
        (PORT, "http"),
        (PORT, "1_000"),
        (PORT, " 80"),
        (PORT, "٣"),
        (PORT, "9" * 5000),
        (Count("a number"), "0"),
        (Seconds(), "0"),
        (Seconds(), "-1"),
        (Seconds(), "nan"),
        (Seconds(), "5 weeks"),
        (Seconds(), ""),
        (Bytes(), "none"),
        (Bytes(), "0"),
        (Bytes(), "-1"),
        (Bytes(), "1.5M"),
        (Bytes(), "1 mebibyte"),
        (Mode(), "999"),
        (Mode(), "66"),
        (Mode(), "1777"),
        (Mode(), "rw-rw----"),
        (COLOURS, "mauve"),
        (Mount(), "app"),
        (Mount(), "/app?x"),
        (Networks(), "10.0.0.1/8"),
        (Networks(), "localhost"),
        (Networks(), "10.0.0.7,"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_rule(kind: Kind[Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        kind.parse(text)
    rule = str(caught.value)
    assert not rule.endswith(".")
    assert "\n" not in rule


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (PORT, 9000, 9000),
        (Seconds(), 30, 30.0),
        (Seconds(), 0.25, 0.25),
        (Seconds(), math.inf, math.inf),
        (Bytes(), 4096, 4096),
        (
            Networks(),
            ["10.0.0.7", "::1"],
            (ipaddress.ip_network("10.0.0.7"), ipaddress.ip_network("::1")),
        ),
    ],
)
def test_toml_has_types_of_its_own(kind: Kind[Any], value: object, expected: object) -> None:
    assert kind.from_toml(value) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (PORT, True),
        (PORT, 70000),
        (PORT, 80.0),
        (Seconds(), False),
        (Seconds(), math.nan),
        (Seconds(), -1),
        (Bytes(), True),
        (Bytes(), 1.5),
        # 660 in TOML is decimal, hence mode 1224; and 420 could be meant either way.
        (Mode(), 660),
        (Mode(), 0o660),
        (Text("a host"), 5),
        (Networks(), []),
        (Networks(), ["10.0.0.7", 5]),
        (COLOURS, ["red"]),
        (Mount(), {}),
        (Flag(), 1),
    ],
)
def test_toml_values_of_another_type_are_refused(kind: Kind[Any], value: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        kind.from_toml(value)


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        (Seconds(), 30.0, "30s"),
        (Seconds(), 0.5, "0.5s"),
        (Seconds(), math.inf, "none"),
        (Bytes(), 1 << 20, "1MiB"),
        (Bytes(), 3 << 10, "3KiB"),
        (Bytes(unlimited=True), None, "none"),
        (Mode(), 0o660, "0660"),
        (Mount(), "", "/"),
        (Networks(), (ipaddress.ip_network("10.0.0.7"),), "10.0.0.7"),
        (Networks(), (ipaddress.ip_network("10.0.0.0/8"),), "10.0.0.0/8"),
        (Flag(), True, "on"),
        (Flag(), False, "off"),
        (PORT, 80, "80"),
    ],
)
def test_values_are_shown_as_one_would_write_them(
    kind: Kind[Any], value: object, shown: str
) -> None:
    assert kind.show(value) == shown
    assert kind.parse(shown) == value


def test_an_uneven_size_is_shown_in_bytes() -> None:
    assert Bytes().show(1500) == "1500 bytes"
