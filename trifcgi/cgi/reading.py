"""A block of params, gone through once; compiled."""

from typing import TYPE_CHECKING, Any, Final

from trifcgi._compiled import mypyc_attr
from trifcgi.cgi.known import (
    COOKIE,
    FORGET_AFTER,
    HEADER,
    HOST,
    NOTHING,
    Leaf,
    Name,
    Step,
    memory,
    names,
)
from trifcgi.protocol.pairs import count_pairs, decode_pairs, encode_pairs, long_lengths, truncated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_extensions import i64

__all__ = ["Reading", "read_pairs", "read_params"]

_NONE: Final[list[Any]] = []


@mypyc_attr(free_list_len=1, acyclic=True)
class Reading:
    """What is in a block.

    Attributes:
        block: it.
        count: how many params there are.
        values: those that are asked for by name, by kind; of a repeated one the last.
        leaf: what is known of such blocks, if anything is.
        found: the values that it leaves open.
        headers: the headers, under their own names, in order; where there is no leaf.
        cookies: how many headers are cookies.
    """

    # There is no __init__(), a call more each time: whoever makes one sets what it has.
    __slots__ = ("block", "cookies", "count", "found", "headers", "leaf", "values")

    block: bytes
    count: "i64"
    values: list[Any]
    leaf: Leaf | None
    found: list[bytes]
    headers: list[Any]
    cookies: "i64"

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """All params, as pairs."""
        leaf = self.leaf
        if leaf is None:
            return decode_pairs(self.block)
        pairs = leaf.pairs.copy()
        found = self.found
        for slot in leaf.varying:
            pairs[slot.place] = (slot.raw, found[slot.number])
        return pairs


def read_params(block: bytes, most: "i64") -> Reading:
    """Read a block, as far as it is not known already.

    Args:
        block: it.
        most: nothing is made of a block with more params than that; the count tells.

    Raises:
        ProtocolError: the block ends inside a pair.
    """
    memory.readings += 1
    if memory.readings > FORGET_AFTER:
        memory.forget()
    found: list[bytes] = []
    last = memory.root
    step = last.then
    at: i64 = 0
    end: i64 = len(block)
    while step is not None:
        try:
            length: i64 = block[at + step.size]
        except IndexError:  # the block ends before
            step = step.other
            continue
        middle: i64 = at + step.ahead
        if block[at:middle] != step.spelt[length]:
            middle, length = step.read(block, at, length)
            if middle < 0:
                step = step.other
                continue
        at = middle + length
        found.append(block[middle:at])
        last = step
        step = step.then
    # A last value that is cut short is found out here, too.
    leaf = last.leaf if at <= end else None
    while leaf is not None and block[at:] != leaf.tail:
        leaf = leaf.other
    if leaf is None or leaf.count > most or (leaf.host >= 0 and not found[leaf.host]):
        return _read_on(block, most, last, at, found)
    reading = Reading()
    reading.block = block
    reading.count = leaf.count
    reading.leaf = leaf
    reading.found = found
    reading.cookies = leaf.cookies
    reading.values = values = leaf.values.copy()
    for slot in leaf.named:
        values[slot.kind] = found[slot.number]
    return reading


def _blank(block: bytes) -> Reading:
    reading = Reading()
    reading.block = block
    reading.count = 0
    reading.values = NOTHING
    reading.leaf = None
    reading.found = _NONE
    reading.headers = _NONE
    reading.cookies = 0
    return reading


def _read_on(block: bytes, most: "i64", last: Step, at: "i64", found: list[bytes]) -> Reading:
    """Read a block of which only the beginning is known: as far as a step, and what it found."""
    reading = _blank(block)
    if len(block) > 2 * most:
        reading.count = count_pairs(block, most)
        if reading.count > most:
            return reading
    known = last.known
    if known.host >= 0 and not found[known.host]:
        known = memory.root.known
        at = 0
    reading.count = known.count
    reading.cookies = known.cookies
    reading.values = known.fill(found)
    reading.headers = known.fill_headers(found)
    _collect(block, at, reading)
    memory.missed(block, reading.count)
    return reading


def _collect(block: bytes, begin: "i64", reading: Reading) -> None:
    values = reading.values
    headers = reading.headers
    new: list[Name] = []
    count: i64 = reading.count
    at: i64 = begin
    end: i64 = len(block)
    try:
        while at < end:
            count += 1
            name_length: i64 = block[at]
            length: i64 = block[at + 1]
            if name_length < 128 and length < 128:
                at += 2
            else:
                at, name_length, length = long_lengths(block, at)
            middle: i64 = at + name_length
            raw = block[at:middle]
            name = names.get(raw)
            if name is None:
                name = Name(raw)
                new.append(name)
            at = middle + length
            kind = name.kind
            if kind >= HEADER:
                if kind == COOKIE:
                    reading.cookies += 1
                if length or kind != HOST:  # Caddy's word for: there was none
                    headers.append((name.header, block[middle:at]))
            elif kind:
                values[kind] = block[middle:at]
    except IndexError:
        raise truncated(end) from None
    if at != end:
        raise truncated(end)
    reading.count = count
    # Not before: what looks like a name in a malformed block may be anything.
    for name in new:
        names.keep(name.raw, name)


def read_pairs(pairs: "Sequence[tuple[bytes, bytes]]") -> Reading:
    """The params of a block that has been taken apart."""
    reading = _blank(encode_pairs(pairs))
    reading.count = len(pairs)
    reading.values = values = NOTHING.copy()
    reading.headers = headers = []
    for param, value in pairs:
        name = names[param]
        kind = name.kind
        if kind >= HEADER:
            if kind == COOKIE:
                reading.cookies += 1
            if value or kind != HOST:
                headers.append((name.header, value))
        elif kind:
            values[kind] = value
    return reading
