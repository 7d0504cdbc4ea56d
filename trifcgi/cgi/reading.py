"""A block of params, gone through once; compiled."""

from typing import TYPE_CHECKING, Any

from trifcgi._compiled import mypyc_attr
from trifcgi.cgi.known import COOKIE, HEADER, HOST, NOTHING, Leaf, memory, names
from trifcgi.protocol.pairs import count_pairs, long_lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_extensions import i64

__all__ = ["Reading", "read_pairs", "read_params"]


@mypyc_attr(free_list_len=1, acyclic=True)
class Reading:
    """What is in a block.

    Attributes:
        block: it.
        count: how many params there are.
        values: those that are asked for by name, by kind; of a repeated one the last.
        leaf: what is known of such blocks, if anything is.
        found: the values that it leaves open.
        cookies: how many headers are cookies.
    """

    block = b""
    count: "i64" = 0
    values: list[Any] = NOTHING
    leaf: Leaf | None = None
    found: list[bytes] | None = None
    cookies: "i64" = 0
    _headers: list[Any] | None = None

    def headers(self) -> list[Any]:
        """The headers, under their own names, in order: a new list each time."""
        leaf = self.leaf
        found = self.found
        if leaf is None or found is None:
            return [] if self._headers is None else self._headers.copy()
        headers = leaf.headers.copy()
        for slot in leaf.fields:
            headers[slot.place] = (slot.header, found[slot.number])
        return headers


def read_params(block: bytes, most: "i64") -> Reading:
    """Read a block, for ASGI and the like.

    Args:
        block: it.
        most: nothing is made of a block with more params than that; the count tells.

    Raises:
        ProtocolError: the block ends inside a pair.
    """
    memory.count()
    found: list[bytes] = []
    last = memory.root
    step = last.then
    at: i64 = 0
    end: i64 = len(block)
    try:
        while step is not None:
            start: i64 = at + step.size
            if block[at:start] == step.lead:
                length: i64 = block[start]
                if length < 128:
                    start += 1
                else:
                    start, _, length = long_lengths(block, start - 1)
                middle: i64 = start + step.length
                if block[start:middle] == step.name:
                    at = middle + length
                    found.append(block[middle:at])
                    last = step
                    step = step.then
                    continue
            step = step.other
    except IndexError:
        return _read_afresh(block, most)
    leaf = last.leaf
    # A last value that is cut short is found out here, too.
    while leaf is not None and (at + leaf.size != end or block[at:] != leaf.tail):
        leaf = leaf.other
    if leaf is None or leaf.count > most or (leaf.host >= 0 and not found[leaf.host]):
        return _read_afresh(block, most)
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


def _read_afresh(block: bytes, most: "i64") -> Reading:
    reading = Reading()
    reading.block = block
    # First of all: no name is learned from a block that is malformed.
    reading.count = count_pairs(block, most)
    if reading.count <= most:
        _collect(block, reading)
        memory.missed(block, reading.count)
    return reading


def _collect(block: bytes, reading: Reading) -> None:
    reading.values = values = NOTHING.copy()
    reading._headers = headers = []
    at: i64 = 0
    end: i64 = len(block)
    while at < end:
        name_length: i64 = block[at]
        length: i64 = block[at + 1]
        if name_length < 128 and length < 128:
            at += 2
        else:
            at, name_length, length = long_lengths(block, at)
        middle: i64 = at + name_length
        name = names[block[at:middle]]
        at = middle + length
        kind = name.kind
        if kind >= HEADER:
            if kind == COOKIE:
                reading.cookies += 1
            if length or kind != HOST:  # Caddy's word for: there was none
                headers.append((name.header, block[middle:at]))
        elif kind:
            values[kind] = block[middle:at]


def read_pairs(pairs: "Sequence[tuple[bytes, bytes]]") -> Reading:
    """The params of a block that has been taken apart."""
    reading = Reading()
    reading.count = len(pairs)
    reading.values = values = NOTHING.copy()
    reading._headers = headers = []
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
