"""The response head out of text, as WSGI applications give it. Compiled.

The same rules as in :mod:`trifcgi.cgi.head`, which makes every head that is out of the ordinary.
"""

from typing import Any, Final

from trifcgi.cgi.head import encode_head
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
    try:
        known = _statuses.get(status)
        if known is None:
            known = _learn_status(status)
        usual = (
            None if known is None or type(headers) is not list else _encode_usual(known, headers)
        )
    except (AttributeError, TypeError, ValueError):
        usual = None
    return _encode(status, headers) if usual is None else usual


# What is usual: looked up instead of worked out


class _Status:
    __slots__ = ("code", "line")

    def __init__(self, code: int, line: str) -> None:
        self.code = code
        self.line = line


class _Name:
    __slots__ = ("is_length", "start")

    def __init__(self, start: str, is_length: bool) -> None:
        self.start = start
        self.is_length = is_length


# Apps write the same few over and over. What clients make up gets in here only where an app
# gives it back, hence the bounds.
_MOST: Final = 256
_LONGEST: Final = 64
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
    learned = _Name(start, name.lower() == "content-length")
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
    for name, value in headers:
        if name.lower() == b"content-length":
            if not value.isdigit():
                raise ResponseError(f"Content-Length is a number of bytes, not {value!r}")
            return int(value)
    return None
