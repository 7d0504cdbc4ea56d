"""A block of params, gone through once; compiled."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trifcgi._compiled import mypyc_attr
from trifcgi.cgi.known import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    COOKIE,
    HEADER,
    HOST,
    HTTPS,
    MOST_MISSES,
    PATH_INFO,
    QUERY_STRING,
    REMOTE_ADDR,
    REMOTE_PORT,
    REMOTE_USER,
    REQUEST_METHOD,
    REQUEST_SCHEME,
    REQUEST_URI,
    SCRIPT_NAME,
    SERVER_ADDR,
    SERVER_NAME,
    SERVER_PORT,
    SERVER_PROTOCOL,
    memory,
    names,
)
from trifcgi.protocol.pairs import long_lengths

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["Reading", "read_pairs", "read_params"]


@mypyc_attr(free_list_len=1, acyclic=True)
class Reading:
    """What is in a block.

    Attributes:
        headers: the headers, under their own names, in order.
        cookies: how many of them are cookies.

    The others are the params of those names; of a repeated one the last.
    """

    __slots__ = (
        "content_length",
        "content_type",
        "cookies",
        "headers",
        "https",
        "path_info",
        "query_string",
        "remote_addr",
        "remote_port",
        "remote_user",
        "request_method",
        "request_scheme",
        "request_uri",
        "script_name",
        "server_addr",
        "server_name",
        "server_port",
        "server_protocol",
    )

    def __init__(self) -> None:
        # Pairs of bytes; but compiled code takes a declared tuple apart whenever it passes.
        self.headers: list[Any] = []
        self.cookies: i64 = 0
        self.content_length: bytes | None = None
        self.content_type: bytes | None = None
        self.https: bytes | None = None
        self.path_info: bytes | None = None
        self.query_string: bytes | None = None
        self.remote_addr: bytes | None = None
        self.remote_port: bytes | None = None
        self.remote_user: bytes | None = None
        self.request_method: bytes | None = None
        self.request_scheme: bytes | None = None
        self.request_uri: bytes | None = None
        self.script_name: bytes | None = None
        self.server_addr: bytes | None = None
        self.server_name: bytes | None = None
        self.server_port: bytes | None = None
        self.server_protocol: bytes | None = None

    def put(self, kind: "i64", value: bytes) -> None:
        """Keep a param that is asked for by name; others are passed over."""
        if kind == REQUEST_METHOD:
            self.request_method = value
        elif kind == CONTENT_TYPE:
            self.content_type = value
        elif kind == CONTENT_LENGTH:
            self.content_length = value
        elif kind == QUERY_STRING:
            self.query_string = value
        elif kind == SCRIPT_NAME:
            self.script_name = value
        elif kind == REQUEST_URI:
            self.request_uri = value
        elif kind == SERVER_PROTOCOL:
            self.server_protocol = value
        elif kind == REQUEST_SCHEME:
            self.request_scheme = value
        elif kind == REMOTE_ADDR:
            self.remote_addr = value
        elif kind == REMOTE_PORT:
            self.remote_port = value
        elif kind == REMOTE_USER:
            self.remote_user = value
        elif kind == SERVER_ADDR:
            self.server_addr = value
        elif kind == SERVER_PORT:
            self.server_port = value
        elif kind == SERVER_NAME:
            self.server_name = value
        elif kind == PATH_INFO:
            self.path_info = value
        elif kind == HTTPS:
            self.https = value


def read_pairs(pairs: Sequence[tuple[bytes, bytes]]) -> Reading:
    """The params that are asked for by name, without the headers."""
    find = dict(pairs).get
    reading = Reading()
    reading.content_length = find(b"CONTENT_LENGTH")
    reading.content_type = find(b"CONTENT_TYPE")
    reading.https = find(b"HTTPS")
    reading.path_info = find(b"PATH_INFO")
    reading.query_string = find(b"QUERY_STRING")
    reading.remote_addr = find(b"REMOTE_ADDR")
    reading.remote_port = find(b"REMOTE_PORT")
    reading.remote_user = find(b"REMOTE_USER")
    reading.request_method = find(b"REQUEST_METHOD")
    reading.request_scheme = find(b"REQUEST_SCHEME")
    reading.request_uri = find(b"REQUEST_URI")
    reading.script_name = find(b"SCRIPT_NAME")
    reading.server_addr = find(b"SERVER_ADDR")
    reading.server_name = find(b"SERVER_NAME")
    reading.server_port = find(b"SERVER_PORT")
    reading.server_protocol = find(b"SERVER_PROTOCOL")
    return reading


def read_params(block: bytes) -> Reading:
    """Read a block that can be decoded without an error, for ASGI and the like."""
    reading = Reading()
    headers = reading.headers
    places = memory.recall()
    known: i64 = len(places)
    number: i64 = 0
    at: i64 = 0
    end: i64 = len(block)
    while at < end:
        place = places[number] if number < known else memory.place(number)
        run = place.run
        while run is not None and not run.is_at(block, at):
            run = run.shorter
        if run is not None:
            for header in run.headers:  # They are few: to extend the list costs more.
                headers.append(header)
            for variable in run.variables:
                reading.put(variable.kind, variable.value)
            if place.misses:
                place.misses -= 1
            number += run.count
            at += run.size
            continue
        start = at
        name_length: i64 = block[at]
        value_length: i64 = block[at + 1]
        if name_length < 128 and value_length < 128:
            at += 2
        else:
            at, name_length, value_length = long_lengths(block, at)
        middle = at + name_length
        stop = middle + value_length
        name = place.name
        if name_length != name.length or block[at:middle] != name.raw:
            name = names[block[at:middle]]
            if name.short:
                place.name = name
        kind = name.kind
        if kind >= HEADER:
            if kind == COOKIE:
                reading.cookies += 1
            if value_length or kind != HOST:  # Caddy's word for: there was none
                headers.append((name.header, block[middle:stop]))
        elif kind:
            reading.put(kind, block[middle:stop])
        if place.misses < MOST_MISSES:
            if name.again or not value_length:
                place.learn(name, block[start:stop], block[middle:stop])
            elif place.run is not None:
                place.misses += 1
        number += 1
        at = stop
    return reading
