"""A block of params, gone through once; compiled.

Much of a block is the same in each request: what the front end says of itself and of the
server. Such a param is known again by its bytes, at the place where it stood the last time, and
what it means is at hand; to compare costs a fraction of reading it. Only for names that
say nothing of one client, so nothing of anybody's stays behind, and few are forgotten again.
"""

from typing import Final

from trifcgi.cgi.names import COOKIE, ENVIRON_NAMES, HEADER_NAMES
from trifcgi.protocol.pairs import long_lengths

__all__ = ["Reading", "read_environ", "read_params"]

# How names begin, as bytes, and the length of the only one with an H that is no header.
_D: Final = 0x44
_G: Final = 0x47
_H: Final = 0x48
_HTTPS: Final = 5

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
        b"HTTP_CONNECTION",
        b"HTTP_HOST",
        b"HTTP_SEC_FETCH_DEST",
        b"HTTP_SEC_FETCH_MODE",
        b"HTTP_SEC_FETCH_SITE",
        b"HTTP_SEC_FETCH_USER",
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
_FORGET_AFTER: Final = 1000


class _Known:
    """A param as it came with an earlier request, and what it means.

    Attributes:
        raw: its lengths, name and value; ``b""`` stands for none.
        param: its name.
        value: its value.
        header: it as a header, if it is one.
        environ_name: its key in a WSGI environ; ``None`` if it stays out.
        text: its value there.
    """

    __slots__ = ("environ_name", "header", "param", "raw", "text", "value")

    def __init__(self, raw: bytes, param: bytes, value: bytes) -> None:
        self.raw = raw
        self.param = param
        self.value = value
        name = HEADER_NAMES[param] if raw else None
        self.header: tuple[bytes, bytes] | None = None
        if name is not None and (value or name != b"host"):
            self.header = name, value
        self.environ_name = ENVIRON_NAMES[param] if raw else None
        self.text = value.decode("latin-1")


_VARIES: Final = _Known(b"", b"", b"")
"""Stands for a param at a place where there is nothing to know again."""


class _Memory:
    """What came before.

    Attributes:
        known: by place.
        readings: how many blocks were read since all was forgotten. That happens from time to
            time, for places where another param stands now than at first.
    """

    __slots__ = ("known", "readings")

    def __init__(self) -> None:
        self.known: list[_Known] = []
        self.readings = 0

    def recall(self) -> list[_Known]:
        """What to compare the next block with."""
        self.readings += 1
        if self.readings > _FORGET_AFTER:
            self.readings = 0
            self.known = []
        return self.known

    def keep(self, place: int, raw: bytes, param: bytes, value: bytes) -> None:
        """Take note of what stands at a place that is new, or other than the last time."""
        known = self.known
        again = len(raw) <= _LONGEST and param in _KNOWN_AGAIN
        pair = _Known(raw, param, value) if again else _VARIES
        if place < len(known):
            known[place] = pair
        elif place == len(known) and place < _MOST_PLACES:
            known.append(pair)


_memory: Final = _Memory()


def _is_at(block: bytes, at: int, raw: bytes) -> bool:
    return block[at : at + len(raw)] == raw


def _is_variable(first: int, length: int) -> bool:
    """Whether a name that begins so is one that anybody here asks for: no header, and not what
    says where files are or who the gateway is (DOCUMENT_ROOT, GATEWAY_INTERFACE).
    """
    return (first != _H or length == _HTTPS) and first != _D and first != _G


class Reading:
    """What is in a block.

    Attributes:
        variables: the params that anybody here asks for by name; of a repeated one the last.
        headers: the headers, under their own names, in order.
        cookies: how many of them are cookies.
    """

    __slots__ = ("cookies", "headers", "variables")

    def __init__(self) -> None:
        self.variables: dict[bytes, bytes] = {}
        self.headers: list[tuple[bytes, bytes]] = []
        self.cookies = 0


def read_params(block: bytes) -> Reading:
    """Read a block that can be decoded without an error, for ASGI and the like."""
    reading = Reading()
    variables = reading.variables
    headers = reading.headers
    names = HEADER_NAMES
    known = _memory.recall()
    places = len(known)
    place = 0
    at = 0
    end = len(block)
    while at < end:
        pair = known[place] if place < places else None
        if pair is not None and pair is not _VARIES and _is_at(block, at, pair.raw):
            stop = at + len(pair.raw)
            if pair.header is not None:
                headers.append(pair.header)
            else:
                variables[pair.param] = pair.value
            place += 1
            at = stop
            continue
        start = at
        name_length = block[at]
        value_length = block[at + 1]
        if name_length < 128 and value_length < 128:
            at += 2
        else:
            at, name_length, value_length = long_lengths(block, at)
        middle = at + name_length
        stop = middle + value_length
        if name_length:
            param = block[at:middle]
            value = block[middle:stop]
            first = block[at]
            if first == _H and name_length > _HTTPS:
                name = names[param]
                if name is not None:
                    if name is COOKIE:
                        reading.cookies += 1
                    if value_length or name != b"host":  # Caddy's word for: there was none
                        headers.append((name, value))
            elif _is_variable(first, name_length):
                variables[param] = value
            if pair is not _VARIES:
                _memory.keep(place, block[start:stop], param, value)
        elif pair is not _VARIES:
            _memory.keep(place, b"", b"", b"")
        place += 1
        at = stop
    return reading


def read_environ(block: bytes, environ: dict[str, str]) -> tuple[dict[bytes, bytes], bool]:
    """Put a block's params into a WSGI environ.

    Returns:
        Those that anybody here asks for by name; and whether no key came twice.
    """
    variables: dict[bytes, bytes] = {}
    names = ENVIRON_NAMES
    known = _memory.recall()
    places = len(known)
    place = 0
    count = 0
    at = 0
    end = len(block)
    while at < end:
        pair = known[place] if place < places else None
        if pair is not None and pair is not _VARIES and _is_at(block, at, pair.raw):
            stop = at + len(pair.raw)
            if pair.environ_name is not None:
                environ[pair.environ_name] = pair.text
                count += 1
            if pair.header is None:
                variables[pair.param] = pair.value
            place += 1
            at = stop
            continue
        start = at
        name_length = block[at]
        value_length = block[at + 1]
        if name_length < 128 and value_length < 128:
            at += 2
        else:
            at, name_length, value_length = long_lengths(block, at)
        middle = at + name_length
        stop = middle + value_length
        param = block[at:middle]
        value = block[middle:stop]
        name = names[param]
        if name is not None:
            environ[name] = value.decode("latin-1")
            count += 1
        if name_length and _is_variable(block[at], name_length):
            variables[param] = value
        if pair is not _VARIES:
            _memory.keep(place, block[start:stop], param, value)
        place += 1
        at = stop
    return variables, len(environ) == count
