"""Name-value pairs (§3.4): one length byte below 128, else four with the high bit set."""

from collections.abc import Iterable
from typing import Final

from trifcgi.errors import ProtocolError

__all__ = ["count_pairs", "decode_named", "decode_pairs", "encode_pairs"]

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
                if name_length < 128:
                    at += 1
                else:
                    name_length = _long_length(block, at)
                    value_length = block[at + 4]
                    at += 4
                if value_length < 128:
                    at += 1
                else:
                    value_length = _long_length(block, at)
                    at += 4
            middle = at + name_length
            at = middle + value_length
            append((block[middle - name_length : middle], block[middle:at]))
    except IndexError:
        raise _truncated(end) from None
    # Slices past the end come out short without an error, and end the loop: this finds them.
    if at != end:
        raise _truncated(end)
    return pairs


def decode_named(block: bytes) -> tuple[dict[bytes, bytes], int]:
    """Read a block of pairs as :func:`decode_pairs` does, into a mapping.

    Returns:
        The values by name, in order, the last one of a repeated name; and the number of pairs,
        which is larger than that of the names where one is repeated.

    Raises:
        ProtocolError: the block ends inside a pair.
    """
    named: dict[bytes, bytes] = {}
    count = 0
    at = 0
    end = len(block)
    # The loop of decode_pairs once more: it is most of what receiving a request costs.
    try:
        while at < end:
            name_length = block[at]
            value_length = block[at + 1]
            if name_length < 128 and value_length < 128:
                at += 2
            else:
                if name_length < 128:
                    at += 1
                else:
                    name_length = _long_length(block, at)
                    value_length = block[at + 4]
                    at += 4
                if value_length < 128:
                    at += 1
                else:
                    value_length = _long_length(block, at)
                    at += 4
            middle = at + name_length
            at = middle + value_length
            named[block[middle - name_length : middle]] = block[middle:at]
            count += 1
    except IndexError:
        raise _truncated(end) from None
    if at != end:
        raise _truncated(end)
    return named, count


def count_pairs(block: bytes, most: int) -> int:
    """Count the pairs in a block without making them, and stop once there are more than ``most``.

    A block of the shortest pairs takes some thirty times its size when it is decoded: this
    tells beforehand. A truncated last pair counts as one.
    """
    found = 0
    at = 0
    end = len(block)
    while at < end and found <= most:
        found += 1
        lengths = 0
        for _ in range(2):
            if at >= end:
                return found
            length = block[at]
            if length < 128:
                at += 1
            else:
                length = _long_length(block, at)
                at += 4
            lengths += length
        at += lengths
    return found


def encode_pairs(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write pairs as one block, lengths in their shortest form.

    Raises:
        ValueError: a name or value has 2**31 bytes or more.
    """
    parts: list[bytes] = []
    for name, value in pairs:
        parts += (_length(len(name)), _length(len(value)), name, value)
    return b"".join(parts)


def _long_length(block: bytes, at: int) -> int:
    return int.from_bytes(block[at : at + 4], "big") & _MAX_LENGTH


def _length(length: int) -> bytes:
    if length < 128:
        return bytes((length,))
    if length > _MAX_LENGTH:
        raise ValueError(f"a name or value of {length} bytes, more than {_MAX_LENGTH}")
    return (length | _LONG).to_bytes(4, "big")


def _truncated(length: int) -> ProtocolError:
    return ProtocolError(f"a block of {length} bytes of name-value pairs ends inside a pair")
