"""The response head out of text, as WSGI applications give it. Compiled.

The same rules as in :mod:`trifcgi.cgi.head`, which makes every head that is out of the ordinary.
"""

from typing import Any, Final

from trifcgi.cgi.head import encode_head, says_nothing
from trifcgi.errors import ResponseError

__all__ = ["TextHead", "encode_text_head"]


class TextHead:
    """A head, ready to be sent.

    Attributes:
        head: its bytes, through the blank line that ends it.
        status: the status.
        content_length: what Content-Length says; ``None``: there is none.
    """

    __slots__ = ("content_length", "head", "status")

    def __init__(self, head: bytes, status: int, content_length: int | None) -> None:
        self.head = head
        self.status = status
        self.content_length = content_length


def encode_text_head(status: Any, headers: Any) -> TextHead:
    """Make the head of a response.

    Args:
        status: ``404 Not Found``, say; without a reason, the usual one is sent.
        headers: a list of pairs of str, names and values, kept in their order.

    Raises:
        TypeError: they are something else.
        ResponseError: no status; not Latin-1 (PEP 3333); or see
            :func:`~trifcgi.cgi.head.encode_head`.
    """
    last = _memory.last
    head = None if last is None else last.again(status, headers)
    if head is not None:
        return head
    try:
        known = _statuses.get(status)
        if known is None:
            known = _learn_status(status)
        usual = (
            None if known is None or type(headers) is not list else _encode_usual(known, headers)
        )
    except (AttributeError, TypeError, ValueError):
        usual = None
    if usual is None:
        return _encode(status, headers)
    _memory.keep(status, headers, usual)
    return usual


# What is usual: looked up instead of worked out


class _Status:
    __slots__ = ("code", "line")

    def __init__(self, code: int, line: str) -> None:
        self.code = code
        self.line = line


class _Name:
    __slots__ = ("again", "is_length", "start")

    def __init__(self, start: str, is_length: bool, again: bool) -> None:
        self.start = start
        self.is_length = is_length
        self.again = again


# Apps write the same few over and over. What clients make up gets in here only where an app
# gives it back, hence the bounds.
_MOST: Final = 256
_LONGEST: Final = 64
_LONGEST_HEAD: Final = 2048
_statuses: Final[dict[Any, _Status]] = {}
_names: Final[dict[Any, _Name]] = {}


def _learn_status(status: Any) -> _Status | None:
    code, reason = _parse_status(status)
    if code == 204 or len(status) > _LONGEST:
        return None
    learned = _Status(code, encode_head(code, (), reason=reason).decode("latin-1"))
    if len(_statuses) >= _MOST:
        _statuses.clear()
    _statuses[str(status)] = learned
    return learned


def _learn_name(name: Any) -> _Name | None:
    start = encode_head(200, ((name.encode("latin-1"), b""),)).decode("latin-1")
    start = start[: start.index("\r\n")]
    if len(name) > _LONGEST or start != name + ": ":
        return None  # long, or dropped
    lowered = name.lower()
    learned = _Name(start, lowered == "content-length", says_nothing(lowered.encode("latin-1")))
    if len(_names) >= _MOST:
        _names.clear()
    _names[str(name)] = learned
    return learned


def _encode_usual(status: _Status, headers: list[Any]) -> TextHead | None:
    """The head, if nothing is out of the ordinary about it."""
    names = _names
    parts: list[Any] = []
    length: int | None = None
    for name, value in headers:
        known = names.get(name)
        if known is None:
            known = _learn_name(name)
            if known is None:
                return None
        if known.is_length:
            if length is not None or not value.isdecimal() or len(value) > 18:
                return None
            length = int(value)
        parts.append(known.start)
        parts.append(value)
        parts.append("\r\n")
    parts.append(status.line)
    head = "".join(parts)
    # Names are tokens, so each line has exactly the break that was put there.
    lines = len(headers) + 2
    if head.count("\n") != lines or head.count("\r") != lines or "\0" in head:
        return None
    return TextHead(head.encode("latin-1"), status.code, length)


# What is all the same, but for Content-Length


class _LastHead:
    """A head that had nothing of one client in it.

    Attributes:
        status: what it was made of.
        names: what it was made of.
        values: what it was made of.
        length_at: which of them is Content-Length; -1: none.
        head: the whole.
        before: it up to the value of Content-Length.
        after: the rest of it.
    """

    __slots__ = ("after", "before", "head", "length_at", "names", "status", "values")

    def __init__(
        self, status: str, names: list[str], values: list[str], length_at: int, head: TextHead
    ) -> None:
        self.status = status
        self.names = names
        self.values = values
        self.length_at = length_at
        self.head = head
        self.before = self.after = ""
        if length_at >= 0:
            lines = head.head.decode("latin-1").split("\r\n")
            self.before = "\r\n".join([*lines[:length_at], names[length_at] + ": "])
            self.after = "\r\n".join(["", *lines[length_at + 1 :]])

    def again(self, status: Any, headers: Any) -> TextHead | None:
        """The head, if it is the same again but for Content-Length."""
        names = self.names
        if type(status) is not str or type(headers) is not list or len(headers) != len(names):
            return None
        if status != self.status:
            return None
        length: str | None = None
        for at, pair in enumerate(headers):
            if type(pair) is not tuple or len(pair) != 2:
                return None
            name = pair[0]
            value = pair[1]
            if type(name) is not str or type(value) is not str or name != names[at]:
                return None
            if value != self.values[at]:
                if at != self.length_at:
                    return None
                length = value
        return self.head if length is None else self._with_length(length)

    def _with_length(self, length: str) -> TextHead | None:
        if not length.isascii() or not length.isdecimal() or len(length) > 18:
            return None
        head = self.before + length + self.after
        return TextHead(head.encode("latin-1"), self.head.status, int(length))


class _Memory:
    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: _LastHead | None = None

    def keep(self, status: str, headers: list[Any], head: TextHead) -> None:
        """Take note of a head, if it may be kept."""
        if len(head.head) > _LONGEST_HEAD:
            return
        names: list[str] = []
        values: list[str] = []
        length_at = -1
        for name, value in headers:
            known = _names.get(name)
            if known is None or not (known.is_length or known.again):
                return
            if known.is_length:
                length_at = len(names)
            names.append(str(name))
            values.append(str(value))
        self.last = _LastHead(str(status), names, values, length_at, head)


_memory: Final = _Memory()


# What is not, and what is wrong with it


def _encode(status: Any, headers: Any) -> TextHead:
    code, reason = _parse_status(status)
    pairs = _encode_headers(headers)
    return TextHead(encode_head(code, pairs, reason=reason), code, _declared_length(pairs))


def _parse_status(status: Any) -> tuple[int, str]:
    if not isinstance(status, str):
        raise TypeError(f"start_response() takes the status as a str, not {status!r}")
    code = status[:3]
    if not (code.isascii() and code.isdigit() and len(code) == 3 and status[3:4] in {"", " "}):
        raise ResponseError(f"{status!r} does not say a status such as '404 Not Found'")
    return int(code), status[4:]


def _encode_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    if not isinstance(headers, list):
        raise TypeError(f"start_response() takes the headers as a list, not {headers!r}")
    try:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    except UnicodeEncodeError as exc:
        raise ResponseError(
            f"response headers are Latin-1 (PEP 3333), not {exc.object!r}"
        ) from None
    except (AttributeError, TypeError, ValueError):
        raise TypeError(f"response headers are pairs of str, not {headers!r}") from None


def _declared_length(headers: list[tuple[bytes, bytes]]) -> int | None:
    length: int | None = None
    for name, value in headers:
        if name.lower() == b"content-length":
            if not value.isdigit():
                raise ResponseError(f"Content-Length is a number of bytes, not {value!r}")
            if length is not None and length != int(value):
                raise ResponseError("two Content-Length headers that differ")
            length = int(value)
    return length
