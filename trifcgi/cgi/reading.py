"""A block of params, gone through once; compiled.

Much of a block is the same in each request: what the front end says of itself and of the
server. Such params are known again by their bytes, at the place where they stood the last time, a
whole run of neighbours by one look, and what they mean is at hand. Only for names that say
nothing of one client, or values that are empty, so nothing of anybody's stays behind, and few are
forgotten again. Of all others it is the name that is known again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from trifcgi._compiled import mypyc_attr
from trifcgi.cgi.names import COOKIE, ENVIRON_NAMES, HEADER_NAMES, LearnedNames
from trifcgi.protocol.pairs import long_lengths

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["Reading", "read_environ", "read_pairs", "read_params"]

_KNOWN_AGAIN: Final = frozenset(
    {
        b"CONTENT_LENGTH",
        b"CONTENT_TYPE",
        b"CONTEXT_DOCUMENT_ROOT",
        b"CONTEXT_PREFIX",
        b"DOCUMENT_ROOT",
        b"GATEWAY_INTERFACE",
        b"HTTPS",
        b"HTTP_ACCEPT",
        b"HTTP_ACCEPT_ENCODING",
        b"HTTP_CACHE_CONTROL",
        b"HTTP_CONNECTION",
        b"HTTP_DNT",
        b"HTTP_HOST",
        b"HTTP_PRAGMA",
        b"HTTP_PRIORITY",
        b"HTTP_SEC_FETCH_DEST",
        b"HTTP_SEC_FETCH_MODE",
        b"HTTP_SEC_FETCH_SITE",
        b"HTTP_SEC_FETCH_USER",
        b"HTTP_SEC_GPC",
        b"HTTP_UPGRADE_INSECURE_REQUESTS",
        b"HTTP_X_FORWARDED_HOST",
        b"HTTP_X_FORWARDED_PROTO",
        b"PATH",
        b"REDIRECT_STATUS",
        b"REQUEST_METHOD",
        b"REQUEST_SCHEME",
        b"SERVER_ADDR",
        b"SERVER_ADMIN",
        b"SERVER_NAME",
        b"SERVER_PORT",
        b"SERVER_PROTOCOL",
        b"SERVER_SIGNATURE",
        b"SERVER_SOFTWARE",
    }
)
_MOST_PLACES: Final = 64
_LONGEST: Final = 256
_JOIN_EVERY: Final = 250
_JOIN_FIRST: Final = 4
_FORGET_AFTER: Final = 1000
_MOST_MISSES: Final = 16

# Kinds of params, by what is made of them. First those that are asked for by name.
_OTHER: Final = 0
_CONTENT_LENGTH: Final = 1
_CONTENT_TYPE: Final = 2
_HTTPS: Final = 3
_PATH_INFO: Final = 4
_QUERY_STRING: Final = 5
_REMOTE_ADDR: Final = 6
_REMOTE_PORT: Final = 7
_REMOTE_USER: Final = 8
_REQUEST_METHOD: Final = 9
_REQUEST_SCHEME: Final = 10
_REQUEST_URI: Final = 11
_SCRIPT_NAME: Final = 12
_SERVER_ADDR: Final = 13
_SERVER_NAME: Final = 14
_SERVER_PORT: Final = 15
_SERVER_PROTOCOL: Final = 16
_HEADER: Final = 17
_HOST: Final = 18
_COOKIE: Final = 19

_KINDS: Final = {
    b"CONTENT_LENGTH": _CONTENT_LENGTH,
    b"CONTENT_TYPE": _CONTENT_TYPE,
    b"HTTPS": _HTTPS,
    b"PATH_INFO": _PATH_INFO,
    b"QUERY_STRING": _QUERY_STRING,
    b"REMOTE_ADDR": _REMOTE_ADDR,
    b"REMOTE_PORT": _REMOTE_PORT,
    b"REMOTE_USER": _REMOTE_USER,
    b"REQUEST_METHOD": _REQUEST_METHOD,
    b"REQUEST_SCHEME": _REQUEST_SCHEME,
    b"REQUEST_URI": _REQUEST_URI,
    b"SCRIPT_NAME": _SCRIPT_NAME,
    b"SERVER_ADDR": _SERVER_ADDR,
    b"SERVER_NAME": _SERVER_NAME,
    b"SERVER_PORT": _SERVER_PORT,
    b"SERVER_PROTOCOL": _SERVER_PROTOCOL,
}


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
        if kind == _REQUEST_METHOD:
            self.request_method = value
        elif kind == _CONTENT_TYPE:
            self.content_type = value
        elif kind == _CONTENT_LENGTH:
            self.content_length = value
        elif kind == _QUERY_STRING:
            self.query_string = value
        elif kind == _SCRIPT_NAME:
            self.script_name = value
        elif kind == _REQUEST_URI:
            self.request_uri = value
        elif kind == _SERVER_PROTOCOL:
            self.server_protocol = value
        elif kind == _REQUEST_SCHEME:
            self.request_scheme = value
        elif kind == _REMOTE_ADDR:
            self.remote_addr = value
        elif kind == _REMOTE_PORT:
            self.remote_port = value
        elif kind == _REMOTE_USER:
            self.remote_user = value
        elif kind == _SERVER_ADDR:
            self.server_addr = value
        elif kind == _SERVER_PORT:
            self.server_port = value
        elif kind == _SERVER_NAME:
            self.server_name = value
        elif kind == _PATH_INFO:
            self.path_info = value
        elif kind == _HTTPS:
            self.https = value


def read_pairs(pairs: Sequence[tuple[bytes, bytes]]) -> Reading:
    """The params that are asked for by name, without the headers."""
    named = dict(pairs)
    reading = Reading()
    for name, kind in _KINDS.items():
        value = named.get(name)
        if value is not None:
            reading.put(kind, value)
    return reading


class _Name:
    """What a param is by its name.

    Attributes:
        raw: the name.
        length: its length.
        kind: which kind of param it is.
        header: the header's name, if it is one.
        key: its key in a WSGI environ; ``None`` if it stays out.
        again: whether it says nothing of one client.
        short: whether it is short enough to be kept.
    """

    __slots__ = ("again", "header", "key", "kind", "length", "raw", "short")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.length: i64 = len(raw)
        self.kind: i64 = _KINDS.get(raw, _OTHER)
        name = HEADER_NAMES[raw]
        if name is not None:
            self.kind = _COOKIE if name is COOKIE else _HOST if name == b"host" else _HEADER
        self.header = name or b""
        self.key = ENVIRON_NAMES[raw]
        self.again = raw in _KNOWN_AGAIN
        self.short = len(raw) <= LearnedNames.LONGEST


_names: Final = LearnedNames(_Name)
_NO_NAME: Final = _Name(b"")


class _Variable:
    """A param that is asked for by name, known again."""

    __slots__ = ("kind", "value")

    def __init__(self, kind: "i64", value: bytes) -> None:
        self.kind: i64 = kind
        self.value = value


class _Run:
    """Params that follow each other, as they came with an earlier request, and what they mean.

    Attributes:
        raw: their lengths, names and values.
        size: the length of that.
        first: its first byte.
        second: its second byte.
        count: how many they are.
        variables: those that are asked for by name.
        headers: those that are headers, as such.
        environ: they as part of a WSGI environ.
        keys: how many of them go there; the same one may do so twice.
        shorter: what may be at their place when they are not: the first of them alone.
    """

    __slots__ = (
        "count",
        "environ",
        "first",
        "headers",
        "keys",
        "raw",
        "second",
        "shorter",
        "size",
        "variables",
    )

    def __init__(self, raw: bytes, shorter: "_Run | None" = None) -> None:
        self.raw = raw
        self.size: i64 = len(raw)
        self.first: i64 = raw[0]
        self.second: i64 = raw[1]
        self.count: i64 = 0
        self.variables: list[_Variable] = []
        self.headers: list[Any] = []
        self.environ: dict[str, str] = {}
        self.keys: i64 = 0
        self.shorter = shorter

    def is_at(self, block: bytes, at: "i64") -> bool:
        """Whether they are what begins there."""
        return (
            block[at] == self.first
            and block[at + 1] == self.second
            and block[at : at + self.size] == self.raw
        )

    def add(self, other: "_Run") -> None:
        """Have a run that follows in it, too."""
        self.count += other.count
        self.variables += other.variables
        self.headers += other.headers
        self.environ |= other.environ
        self.keys += other.keys


def _run_of_one(name: _Name, raw: bytes, value: bytes) -> _Run:
    run = _Run(raw)
    run.count = 1
    if name.kind < _HEADER:
        run.variables.append(_Variable(name.kind, value))
    elif value or name.kind != _HOST:
        run.headers.append((name.header, value))
    if name.key is not None:
        run.environ[name.key] = value.decode("latin-1")
        run.keys = 1
    return run


class _Place:
    """What has come at one place.

    Attributes:
        name: the name that stood there the last time.
        run: the params that may begin there; ``None``: nothing that is known again.
        misses: how often it was something else, less how often it was not; with too many
            nothing more is learned.
    """

    __slots__ = ("misses", "name", "run")

    def __init__(self) -> None:
        self.name = _NO_NAME
        self.run: _Run | None = None
        self.misses: i64 = 0

    def learn(self, name: _Name, raw: bytes, value: bytes) -> None:
        """Take note of a param that is new here, or other than the last time."""
        self.misses += 1
        # Cookies are counted, whatever is in them.
        may_come_again = (
            len(raw) <= _LONGEST and self.misses < _MOST_MISSES and name.kind != _COOKIE
        )
        self.run = _run_of_one(name, raw, value) if may_come_again else None


class _Memory:
    """What came before.

    Attributes:
        places: by number.
        readings: how many blocks were read since all was forgotten. That happens from time to
            time, for places where another param stands now than at first.
    """

    __slots__ = ("beyond", "places", "readings")

    def __init__(self) -> None:
        self.places: list[_Place] = []
        self.readings: i64 = 0
        self.beyond = _Place()
        self.beyond.misses = _MOST_MISSES

    def recall(self) -> list[_Place]:
        """What to compare the next block with."""
        self.readings += 1
        if self.readings > _FORGET_AFTER:
            self.readings = 0
            self.places = []
        elif self.readings % _JOIN_EVERY == _JOIN_FIRST:
            self._join()
        return self.places

    def place(self, number: "i64") -> _Place:
        """The place of that number, which may be new."""
        places = self.places
        known: i64 = len(places)
        if number < known:
            return places[number]
        if number > known or number >= _MOST_PLACES:
            return self.beyond
        place = _Place()
        places.append(place)
        return place

    def _join(self) -> None:
        """Make runs of neighbours that have come again and again."""
        stretch: list[_Place] = []
        for place in self.places:
            run = place.run
            if run is not None:
                place.run = run.shorter or run
            if run is not None and not place.misses:
                stretch.append(place)
            else:
                _join(stretch)
                stretch = []
        _join(stretch)


def _join(stretch: list[_Place]) -> None:
    runs = [place.run for place in stretch if place.run is not None]
    if len(runs) < 2:
        return
    joined = _Run(b"".join([run.raw for run in runs]), runs[0])
    for run in runs:
        joined.add(run)
    stretch[0].run = joined


_memory: Final = _Memory()


def read_params(block: bytes) -> Reading:
    """Read a block that can be decoded without an error, for ASGI and the like."""
    reading = Reading()
    headers = reading.headers
    memory = _memory
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
            name = _names[block[at:middle]]
            if name.short:
                place.name = name
        kind = name.kind
        if kind >= _HEADER:
            if kind == _COOKIE:
                reading.cookies += 1
            if value_length or kind != _HOST:  # Caddy's word for: there was none
                headers.append((name.header, block[middle:stop]))
        elif kind:
            reading.put(kind, block[middle:stop])
        if place.misses < _MOST_MISSES:
            if name.again or not value_length:
                place.learn(name, block[start:stop], block[middle:stop])
            elif place.run is not None:
                place.misses += 1
        number += 1
        at = stop
    return reading


def read_environ(block: bytes, environ: dict[str, str]) -> tuple[Reading, bool]:
    """Put a block's params into a WSGI environ.

    Returns:
        Those that are asked for by name; and whether no key came twice.
    """
    reading = Reading()
    memory = _memory
    places = memory.recall()
    known: i64 = len(places)
    number: i64 = 0
    keys: i64 = 0
    at: i64 = 0
    end: i64 = len(block)
    while at < end:
        place = places[number] if number < known else memory.place(number)
        run = place.run
        while run is not None and not run.is_at(block, at):
            run = run.shorter
        if run is not None:
            environ.update(run.environ)
            keys += run.keys
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
            name = _names[block[at:middle]]
            if name.short:
                place.name = name
        value = block[middle:stop]
        key = name.key
        if key is not None:
            environ[key] = value.decode("latin-1")
            keys += 1
        if _OTHER < name.kind < _HEADER:
            reading.put(name.kind, value)
        if place.misses < _MOST_MISSES:
            if name.again or not value_length:
                place.learn(name, block[start:stop], value)
            elif place.run is not None:
                place.misses += 1
        number += 1
        at = stop
    return reading, len(environ) == keys
