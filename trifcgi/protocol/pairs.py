"""Name-value pairs (§3.4): one length byte below 128, else four with the high bit set."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from trifcgi.errors import ProtocolError

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["COMPILED", "count_pairs", "decode_pairs", "encode_pairs", "find_value", "long_lengths"]

COMPILED: Final = not __file__.endswith(".py")
"""Whether this is compiled code. It goes through a block in no time, as often as it likes, and
makes only what is wanted; Python itself is faster when it decodes once and looks at that."""

_MAX_LENGTH: Final = 0x7FFF_FFFF
_LONG: Final = 0x8000_0000


def decode_pairs(block: bytes) -> list[tuple[bytes, bytes]]:
    """Read a complete block of pairs: the joined content of a request's PARAMS records, or of a
    management record.

    The order and duplicates are kept: nginx and HAProxy repeat a param for a repeated header.
    A four-byte length is taken for short names and values too.

    Raises:
        ProtocolError: the block ends inside a pair.
    """
    pairs: list[tuple[bytes, bytes]] = []
    append = pairs.append
    at = 0
    end = len(block)
    try:
        while at < end:
            name_length = block[at]
            value_length = block[at + 1]
            if name_length < 128 and value_length < 128:
                at += 2
            else:
                at, name_length, value_length = long_lengths(block, at)
            middle = at + name_length
            at = middle + value_length
            append((block[middle - name_length : middle], block[middle:at]))
    except IndexError:
        raise truncated(end) from None
    # Slices past the end come out short without an error, and end the loop: this finds them.
    if at != end:
        raise truncated(end)
    return pairs


def count_pairs(block: bytes, most: "i64") -> "i64":
    """Count the pairs in a block without making them, and stop once there are more than ``most``.

    A block of the shortest pairs takes some thirty times its size when it is decoded: this
    tells beforehand. A block that was counted to its end can be decoded without an error.

    Raises:
        ProtocolError: the block ends inside a pair.
    """
    found: i64 = 0
    at: i64 = 0
    end: i64 = len(block)
    try:
        while at < end and found <= most:
            found += 1
            name_length: i64 = block[at]
            value_length: i64 = block[at + 1]
            if name_length < 128 and value_length < 128:
                at += 2 + name_length + value_length
            else:
                at, name_length, value_length = long_lengths(block, at)
                at += name_length + value_length
    except IndexError:
        raise truncated(end) from None
    if at > end:
        raise truncated(end)
    return found


def find_value(block: bytes, name: bytes) -> bytes | None:
    """The value of a name, which is not empty, in a block that has been counted; of a repeated
    one the last.
    """
    value: bytes | None = None
    length = len(name)
    first = name[0]
    at = 0
    end = len(block)
    while at < end:
        name_length = block[at]
        value_length = block[at + 1]
        if name_length < 128 and value_length < 128:
            at += 2
        else:
            at, name_length, value_length = long_lengths(block, at)
        middle = at + name_length
        if name_length == length and block[at] == first and block[at:middle] == name:
            value = block[middle : middle + value_length]
        at = middle + value_length
    return value


def encode_pairs(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write pairs as one block, lengths in their shortest form.

    Raises:
        ValueError: a name or value has 2**31 bytes or more.
    """
    parts: list[bytes] = []
    for name, value in pairs:
        parts += (_length(len(name)), _length(len(value)), name, value)
    return b"".join(parts)


def long_lengths(block: bytes, at: int) -> tuple[int, int, int]:
    """Read the two lengths of a pair, of one or four bytes each.

    Returns:
        Where the name begins, its length, and the value's.

    Raises:
        IndexError: the block ends before.
    """
    name_length = block[at]
    if name_length < 128:
        at += 1
    else:
        name_length = _long_length(block, at)
        at += 4
    value_length = block[at]
    if value_length < 128:
        at += 1
    else:
        value_length = _long_length(block, at)
        at += 4
    return at, name_length, value_length


def _long_length(block: bytes, at: int) -> int:
    return (block[at] & 0x7F) << 24 | block[at + 1] << 16 | block[at + 2] << 8 | block[at + 3]


def _length(length: int) -> bytes:
    if length < 128:
        return bytes((length,))
    if length > _MAX_LENGTH:
        raise ValueError(f"a name or value of {length} bytes, more than {_MAX_LENGTH}")
    return (length | _LONG).to_bytes(4, "big")


def truncated(length: int) -> ProtocolError:
    """What is wrong with a block that ends inside a pair."""
    return ProtocolError(f"a block of {length} bytes of name-value pairs ends inside a pair")
