"""Kinds of option values: how each is read from text and from TOML, and shown again.

Text comes from the command line and the environment, TOML values from the file. What
does not fit raises ``ValueError`` with the rule as its message (``a port is a number
from 0 to 65535``); the caller says which option broke it.
"""

import abc
import ipaddress
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

import attrs

__all__ = [
    "Bytes",
    "Choice",
    "Count",
    "Flag",
    "Kind",
    "Mode",
    "Mount",
    "Network",
    "Networks",
    "Seconds",
    "Text",
    "Workers",
    "available_cores",
]

T = TypeVar("T")
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Kind(abc.ABC, Generic[T]):
    """One kind of value."""

    @property
    @abc.abstractmethod
    def metavar(self) -> str:
        """What help texts put after the option's name."""

    @abc.abstractmethod
    def parse(self, text: str) -> T:
        """Read a value from the command line or the environment.

        Raises:
            ValueError: the rule that it breaks.
        """

    def from_toml(self, value: object) -> T:
        """Read a value from a TOML file; a string there means what it means elsewhere.

        Raises:
            ValueError: the rule that it breaks.
        """
        if isinstance(value, str):
            return self.parse(value)
        raise ValueError(self._rule())

    def show(self, value: T) -> str:
        """The value as a user would write it."""
        return str(value)

    @abc.abstractmethod
    def _rule(self) -> str:
        """What a value must be, as a clause without a full stop."""


def _number(text: str) -> int | None:
    # int() alone would also take "1_000", " 7 " and digits of other scripts.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


@attrs.frozen
class Text(Kind[str]):
    """Any text but the empty one and NUL: paths, host names, module names."""

    noun: str
    metavar: str = "TEXT"

    def parse(self, text: str) -> str:
        if not text or "\0" in text:
            raise ValueError(self._rule())
        return text

    def _rule(self) -> str:
        return f"{self.noun} is a text that is not empty"


@attrs.frozen
class Flag(Kind[bool]):
    """On or off; on the command line the option alone says on."""

    metavar: str = ""

    def parse(self, text: str) -> bool:
        on = _FLAGS.get(text.lower())
        if on is None:
            raise ValueError(self._rule())
        return on

    def from_toml(self, value: object) -> bool:
        return value if isinstance(value, bool) else super().from_toml(value)

    def show(self, value: bool) -> str:
        return "on" if value else "off"

    def _rule(self) -> str:
        return "it is either on or off (true and false, yes and no, 1 and 0 are understood too)"


_FLAGS: Final[Mapping[str, bool]] = {
    "on": True, "true": True, "yes": True, "1": True,
    "off": False, "false": False, "no": False, "0": False,
}  # fmt: skip


@attrs.frozen
class Count(Kind[int]):
    """A whole number between two bounds."""

    noun: str
    least: int = 1
    most: int | None = None
    metavar: str = "N"

    def parse(self, text: str) -> int:
        return self._checked(_number(text))

    def from_toml(self, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return self._checked(value)
        return super().from_toml(value)

    def _checked(self, number: int | None) -> int:
        if number is None or number < self.least or not (self.most is None or number <= self.most):
            raise ValueError(self._rule())
        return number

    def _rule(self) -> str:
        if self.most is None:
            return f"{self.noun} is a whole number, {self.least} or more"
        return f"{self.noun} is a whole number from {self.least} to {self.most}"


@attrs.frozen
class Workers(Kind[int]):
    """A number of worker processes; ``auto`` is 0 and means one a core."""

    metavar: str = "N|auto"

    def parse(self, text: str) -> int:
        return 0 if text.lower() == "auto" else self._checked(_number(text))

    def from_toml(self, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return self._checked(value)
        return super().from_toml(value)

    def show(self, value: int) -> str:
        return str(value) if value else "auto"

    def _checked(self, number: int | None) -> int:
        if number is None or not 1 <= number <= _MOST_WORKERS:
            raise ValueError(self._rule())
        return number

    def _rule(self) -> str:
        return f"workers are a whole number from 1 to {_MOST_WORKERS}, or auto"


_MOST_WORKERS: Final = 1000


def available_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_SECONDS: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?(ms|s|m|min|h)?", re.ASCII)
_SECONDS_IN: Final[Mapping[str | None, float]] = {
    None: 1, "ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600,
}  # fmt: skip


@attrs.frozen
class Seconds(Kind[float]):
    """A span of time, in seconds unless a unit follows; ``none`` and ``inf`` have no end."""

    zero: bool = False
    """Whether 0 makes sense here."""
    metavar: str = "S"

    def parse(self, text: str) -> float:
        if text.lower() in ("none", "inf"):
            return math.inf
        match = _SECONDS.fullmatch(text)
        if match is None:
            raise ValueError(self._rule())
        return self._checked(float(match[1]) * _SECONDS_IN[match[2]])

    def from_toml(self, value: object) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._checked(float(value))
        return super().from_toml(value)

    def show(self, value: float) -> str:
        return "none" if value == math.inf else f"{value:g}s"

    def _checked(self, seconds: float) -> float:
        # The comparison is also false for nan.
        if seconds > 0 or (self.zero and seconds == 0):
            return seconds
        raise ValueError(self._rule())

    def _rule(self) -> str:
        bound = "0 or more" if self.zero else "more than 0"
        return f"a time is {bound} in seconds, such as 30, 500ms or 5min, or none"


_BYTES: Final = re.compile(r"(\d{1,20}) ?([a-z]*)", re.ASCII | re.IGNORECASE)
# As GNU coreutils reads sizes: K and KiB are 1,024, KB is 1,000.
_BYTES_IN: Final[Mapping[str, int]] = {
    "": 1, "b": 1,
    "k": 1 << 10, "kib": 1 << 10, "kb": 1000,
    "m": 1 << 20, "mib": 1 << 20, "mb": 1000**2,
    "g": 1 << 30, "gib": 1 << 30, "gb": 1000**3,
}  # fmt: skip


@attrs.frozen
class Bytes(Kind[int | None]):
    """A size in bytes."""

    unlimited: bool = False
    """Whether ``none`` is a size."""
    least: int = 1
    metavar: str = "BYTES"

    def parse(self, text: str) -> int | None:
        if self.unlimited and text.lower() in ("none", "inf"):
            return None
        match = _BYTES.fullmatch(text)
        if match is None or (unit := _BYTES_IN.get(match[2].lower())) is None:
            raise ValueError(self._rule())
        return self._checked(int(match[1]) * unit)

    def from_toml(self, value: object) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool):
            return self._checked(value)
        return super().from_toml(value)

    def show(self, value: int | None) -> str:
        if value is None:
            return "none"
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value and value % size == 0:
                return f"{value // size}{unit}"
        return f"{value} bytes"

    def _checked(self, size: int) -> int:
        if size < self.least:
            raise ValueError(self._rule())
        return size

    def _rule(self) -> str:
        none = ", or none" if self.unlimited else ""
        return f"a size is {self.least} or more in bytes, such as 65536, 64K or '10 MiB'{none}"


@attrs.frozen
class Mode(Kind[int]):
    """A file mode in octal digits, with or without a leading ``0`` or ``0o``."""

    metavar: str = "MODE"

    def parse(self, text: str) -> int:
        match = re.fullmatch(r"(?:0o)?([0-7]{3,4})", text, re.ASCII)
        if match is None or (mode := int(match[1], 8)) > 0o777:
            raise ValueError(self._rule())
        return mode

    def show(self, value: int) -> str:
        return f"{value:04o}"

    def _rule(self) -> str:
        # TOML integers are refused: 620 written there is decimal, and would quietly
        # become another mode (0o1154).
        return 'a mode is three octal digits, such as 660 (in a TOML file a string: "0660")'


@attrs.frozen
class Choice(Kind[str]):
    """One of a few words, in either case."""

    words: Sequence[str]
    metavar: str = "WORD"

    def parse(self, text: str) -> str:
        word = text.lower()
        if word not in self.words:
            raise ValueError(self._rule())
        return word

    def _rule(self) -> str:
        return f"it must be {', '.join(self.words[:-1])} or {self.words[-1]}"


@attrs.frozen
class Mount(Kind[str]):
    """A URL path prefix; ``/`` is the empty one."""

    metavar: str = "PATH"

    def parse(self, text: str) -> str:
        if not text.startswith("/") or "\0" in text or "?" in text or "#" in text:
            raise ValueError(self._rule())
        return text.rstrip("/")

    def show(self, value: str) -> str:
        return value or "/"

    def _rule(self) -> str:
        return "a mount is a URL path that begins with '/', such as /app"


@attrs.frozen
class Networks(Kind[tuple[Network, ...]]):
    """IP addresses and networks, separated by commas (a list in TOML)."""

    metavar: str = "ADDR[,...]"

    def parse(self, text: str) -> tuple[Network, ...]:
        return tuple(self._network(part.strip()) for part in text.split(","))

    def from_toml(self, value: object) -> tuple[Network, ...]:
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            return tuple(self._network(part) for part in value)
        return super().from_toml(value)

    def show(self, value: tuple[Network, ...]) -> str:
        return ", ".join(
            str(network.network_address) if network.num_addresses == 1 else str(network)
            for network in value
        )

    def _network(self, text: str) -> Network:
        try:
            return ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(self._rule()) from error

    def _rule(self) -> str:
        return (
            "each must be an IP address or a network whose host bits are 0, "
            "such as 10.0.0.7, 10.0.0.0/8 or fd00::/8"
        )
