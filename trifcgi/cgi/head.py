"""The response head: status and headers to bytes, as CGI writes them (RFC 3875 §6).

Every head that leaves the program is made here, so that what front ends break on is
known in one place:

- ``Status`` is always there and always the last line. Without it Apache and Caddy make
  a 200 of a redirect; ahead of ``Location`` HAProxy makes a 302 of a 201 or a 307.
- A reason phrase is always there: nginx and HAProxy would send an empty one.
- 1xx is refused: after a 103 nginx, Apache and Caddy take the real head for body, and no
  front end tunnels a 101 over FastCGI.
- Hop-by-hop fields are dropped (RFC 9110 §7.6.1). They belong to the connection between
  client and front end, and mod_fcgid sends ``Transfer-Encoding`` on raw, which breaks the
  response.
- CR, LF and NUL are refused, which is what keeps one header from becoming two.

Names keep the case that they were given in: every front end takes lower case.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from trifcgi.cgi.names import TOKEN, LearnedNames
from trifcgi.errors import ResponseError
from trifcgi.protocol.pairs import COMPILED

if TYPE_CHECKING:
    from mypy_extensions import i64

if TYPE_CHECKING:
    from mypy_extensions import i64

# Any stands where applications give what they like: compiled code insists on what is declared,
# and the sentence about what is wrong with it is to be ours.

__all__ = [
    "Head",
    "complete_head",
    "encode_head",
    "end_of_head",
    "error_response",
    "is_bodyless",
    "says_nothing",
    "usual_head",
]

_LF: Final = 0x0A
_CR: Final = 0x0D
_NEAR: Final = 160  # bytes

_STATUS_VALUE: Final = re.compile(rb"([0-9]{3})(?:[ \t]+(.*))?")
_STATUS_LINE: Final = re.compile(rb"HTTP/[0-9.]+[ \t]+([0-9]{3})(?:[ \t]+(.*))?")

# What becomes of a field, by name.
_KEEP: Final = 0
_DROP: Final = 1
_CONTENT_LENGTH: Final = 2
_LEARN: Final = 3

_DROPPED: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"status",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


# Whose lines many responses of a server have alike: kept ready, and known to be without line
# breaks. Never what belongs to one client, as cookies do.
_LEARNED: Final = frozenset(
    {
        b"accept-ranges",
        b"access-control-allow-origin",
        b"cache-control",
        b"content-encoding",
        b"content-language",
        b"content-security-policy",
        b"content-type",
        b"cross-origin-opener-policy",
        b"permissions-policy",
        b"referrer-policy",
        b"server",
        b"strict-transport-security",
        b"vary",
        b"x-content-type-options",
        b"x-frame-options",
    }
)


def _fate(name: bytes) -> int:
    if TOKEN.fullmatch(name) is None:
        raise ResponseError(f"{bytes(name)!r} is no header name (RFC 9110 §5.1)")
    lowered = name.lower()
    if lowered in _DROPPED:
        return _DROP
    if lowered == b"content-length":
        return _CONTENT_LENGTH
    return _LEARN if lowered in _LEARNED else _KEEP


_fates: Final = LearnedNames(_fate)


def says_nothing(name: bytes) -> bool:
    """Whether a header of that name, in lower case, is never one client's own."""
    return name in _LEARNED


# The standard library's phrases differ from one Python to the next where RFC 9110 renamed
# a status; these are the RFC's.
_REASONS: Final[dict[int, str]] = {
    **{status.value: status.phrase for status in HTTPStatus if status >= 200},
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
_REASONS_BY_CLASS: Final = {2: "Success", 3: "Redirection", 4: "Client Error", 5: "Server Error"}
_TAILS: Final[dict[int, bytes]] = {
    status: b"Status: %d %b\r\n\r\n" % (status, reason.encode())
    for status, reason in _REASONS.items()
}


def _reason_for(status: int) -> str:
    return _REASONS.get(status) or _REASONS_BY_CLASS.get(status // 100, "Unknown")


def _check_status(status: object) -> None:
    if not isinstance(status, int) or not 100 <= status <= 999:
        raise ResponseError(f"a status is a whole number from 200 to 999, not {status!r}")
    if status == 101:
        raise ResponseError("status 101: no front end switches protocols over FastCGI")
    if status < 200:
        raise ResponseError(f"status {status}: FastCGI carries no interim responses")


def _tail(status: Any, reason: str | None) -> bytes:
    """The ``Status`` line and the blank line, for a status or a reason out of the ordinary."""
    _check_status(status)
    if not reason:
        reason = _reason_for(status)
    try:
        phrase = reason.encode("latin-1")
    except UnicodeEncodeError:
        raise ResponseError(f"the reason phrase {reason!r} is not Latin-1") from None
    return b"Status: %d %b\r\n\r\n" % (status, phrase)


# Learned lines, by their pairs.
_MOST_LINES: Final = 256
_LONGEST_LINE: Final = 256
_lines: Final[dict[Any, bytes]] = {}


def _learn(name: bytes, value: bytes) -> None:
    line = name + b": " + value + b"\r\n"
    if len(line) <= _LONGEST_LINE and not _breaks(value):
        if len(_lines) >= _MOST_LINES:
            _lines.clear()
        _lines[bytes(name), bytes(value)] = line


def _learned_line(pair: Any) -> bytes | None:
    try:
        return _lines.get(pair)
    except TypeError:  # a bytearray in it: no key
        return None


def _breaks(value: bytes) -> bool:
    return any(byte in value for byte in b"\r\n\0")


def _refuse(head: bytes, headers: Iterable[Any]) -> ResponseError:
    """Say which header it was that has a line break or NUL in it."""
    for name, value in headers:
        if _breaks(value):
            return ResponseError(
                f"header {name.decode()!r} has a CR, LF or NUL in it: {bytes(value)!r}"
            )
    return ResponseError(f"the reason phrase has a CR, LF or NUL in it: {head[-80:]!r}")


def encode_head(
    status: Any,
    headers: Iterable[Any],
    *,
    reason: str | None = None,
    lengths: list[Any] | None = None,
) -> bytes:
    """Make the head of a response, through the blank line that ends it.

    Args:
        status: an int, 200 to 999.
        headers: pairs of bytes, names and values, kept in their order. Hop-by-hop fields and
            ``Status`` are dropped, and so is ``Content-Length`` for a 204 (RFC 9110 §8.6).
        reason: the reason phrase; the usual one for the status without it, or when empty.
        lengths: gets the value of each ``Content-Length`` that is sent.

    Raises:
        ResponseError: a status that cannot be sent; a name that is no token; CR, LF or
            NUL in a value or in the reason.
    """
    parts: list[bytes] = []
    lines = 2
    certain = not reason
    unlearned: list[Any] = []
    for pair in headers:
        line = _learned_line(pair) if type(pair) is tuple else None
        if line is not None:
            parts.append(line)
            lines += 1
            continue
        name, value = pair
        fate = _fates[name]
        if fate and (fate == _DROP or (fate == _CONTENT_LENGTH and status == 204)):
            continue
        parts.append(name)
        parts.append(b": ")
        parts.append(value)
        parts.append(b"\r\n")
        lines += 1
        if fate == _CONTENT_LENGTH:
            if lengths is not None:
                lengths.append(value)
            if value.isdigit():
                continue
        elif fate == _LEARN:
            _learn(name, value)
        certain = False
        unlearned.append((name, value))
    if reason and reason != _REASONS.get(status):
        parts.append(_tail(status, reason))
    else:
        parts.append(_TAILS.get(status) or _tail(status, None))
    head = b"".join(parts)
    # Names are tokens, so each line has exactly the break that was put there. Counting in
    # the whole costs a third of a look at each value.
    if not certain and (head.count(b"\n") != lines or head.count(b"\r") != lines or 0 in head):
        raise _refuse(head, unlearned)
    return head


# Heads as most applications send them


class Head:
    """A head, ready to be sent.

    Attributes:
        data: its bytes, through the blank line that ends it.
        content_length: what Content-Length says; -1: there is none.
        bodyless: whether no body may follow it, whatever the method is.
    """

    __slots__ = ("bodyless", "content_length", "data")

    def __init__(self, data: bytes, content_length: int, status: Any) -> None:
        self.data = data
        self.content_length = content_length
        self.bodyless = is_bodyless("", status)


class _Line:
    """One line of the last head.

    Attributes:
        name: its name.
        fate: what becomes of a header of that name.
        value: its value; ``None``: it may be one client's own, or is dropped, and is not kept.
        whole: the line; ``b""`` without a value.
        number: the value of a Content-Length.
    """

    __slots__ = ("fate", "name", "number", "value", "whole")

    def __init__(self, name: bytes, fate: int, value: bytes | None, whole: bytes) -> None:
        self.name = name
        self.fate: i64 = fate
        self.value = value
        self.whole = whole
        self.number: i64 = -1


class _LastHead:
    """The last head, which the next one is compared with: nearly always much is the same.

    Attributes:
        status: its status.
        lines: its lines.
        head: the whole, if all lines are kept with their values.
        pairs: then also the headers that it was made of, where they are compared as they are.
    """

    __slots__ = ("head", "lines", "pairs", "status")

    def __init__(
        self, status: int, lines: list[_Line], head: Head | None, pairs: list[Any]
    ) -> None:
        self.status = status
        self.lines = lines
        self.head = head
        self.pairs = pairs


class _Heads:
    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = _LastHead(0, [], None, [])


_heads: Final = _Heads()
_NO_LINE: Final = _Line(b"", _DROP, None, b"")
_MOST_DIGITS: Final = 18


def usual_head(status: Any, headers: Any) -> Head | None:
    """Make the head of a response, the same as :func:`encode_head`, if nothing is out of the
    ordinary about it: headers in a list of tuples, one Content-Length at most, no mistake.
    """
    if type(status) is not int or type(headers) is not list:
        return None
    last = _heads.last
    if status == last.status:
        if COMPILED:
            if _are_lines(headers, last.lines):
                return last.head
        # In Python itself going through them takes longer than to compare them as they are.
        elif headers == last.pairs:
            for name, value in headers:
                # What only equals bytes, as a bytearray does, makes no such head.
                if type(name) is not bytes or type(value) is not bytes:
                    break
            else:
                return last.head
    return _make_head(status, headers, last.lines)


def _are_lines(headers: list[Any], lines: list[_Line]) -> bool:
    """Whether headers make these lines, all of them kept with their values."""
    if len(headers) != len(lines):
        return False
    for at, pair in enumerate(headers):
        if type(pair) is not tuple or len(pair) != 2:
            return False
        line = lines[at]
        name = pair[0]
        value = pair[1]
        if type(name) is not bytes or type(value) is not bytes:
            return False
        if name != line.name or value != line.value:
            return False
    return True


def _make_head(status: int, headers: list[Any], known: list[_Line]) -> Head | None:
    tail = _TAILS.get(status)
    if tail is None:
        return None
    count: i64 = len(known)
    certain = True
    length: i64 = -1
    parts: list[bytes] = []
    lines: list[_Line] = []
    for at, pair in enumerate(headers):
        if type(pair) is not tuple or len(pair) != 2:
            return None
        name = pair[0]
        value = pair[1]
        if type(name) is not bytes or type(value) is not bytes:
            return None
        line = known[at] if at < count else _NO_LINE
        if name != line.name or value != line.value:
            line = _make_line(name, value, pair, line)
        fate = line.fate
        if fate == _CONTENT_LENGTH:
            if length >= 0 or line.number < 0 or status == 204:
                return None
            length = line.number
        lines.append(line)
        if line.whole:
            parts.append(line.whole)
        elif fate != _DROP:
            parts.append(name)
            parts.append(b": ")
            parts.append(value)
            parts.append(b"\r\n")
            certain = False
    parts.append(tail)
    data = b"".join(parts)
    if not certain and not _has_only_the_breaks_of(data, lines):
        return None
    head = Head(data, length, status)
    if len(lines) <= _MOST_LINES:
        every = certain and all(line.whole for line in lines)
        if every:
            _heads.last = _LastHead(status, lines, head, [] if COMPILED else headers.copy())
        else:
            _heads.last = _LastHead(0, lines, None, [])
    return head


def _make_line(name: bytes, value: bytes, pair: tuple[Any, ...], last: _Line) -> _Line:
    """A line, of which no more is kept than may be."""
    fate: i64 = last.fate if name and name == last.name else _fates[name]
    if fate == _CONTENT_LENGTH:
        line = _Line(name, fate, value, name + b": " + value + b"\r\n")
        line.number = _number(value)
        return line
    if fate == _LEARN:
        whole = _lines.get(pair)
        if whole is None:
            _learn(name, value)
            whole = _lines.get(pair)
        if whole is not None:
            return _Line(name, fate, value, whole)
    if name == last.name and last.value is None:
        return last
    return _Line(name, fate, None, b"")


def _number(digits: bytes) -> "i64":
    """The number; -1: it is none, or a long one."""
    number: i64 = 0
    at: i64 = 0
    end: i64 = len(digits)
    if not 0 < end <= _MOST_DIGITS:
        return -1
    while at < end:
        digit: i64 = digits[at]
        if digit < 0x30 or digit > 0x39:
            return -1
        number = number * 10 + digit - 0x30
        at += 1
    return number


def _has_only_the_breaks_of(head: bytes, lines: list[_Line]) -> bool:
    """Names are tokens, so each line has exactly the break that was put there."""
    breaks = 2 + sum([line.fate != _DROP for line in lines])
    return head.count(b"\n") == breaks and head.count(b"\r") == breaks and 0 not in head


def is_bodyless(method: str | bytes, status: int) -> bool:
    """Whether a response has a head only (RFC 9110 §6.4.1): to HEAD, and 204 and 304.

    HAProxy answers 502 when one of these comes with a body.
    """
    if status == 304 or status == 204:
        return True
    return method == "HEAD" if isinstance(method, str) else method == b"HEAD"


def end_of_head(data: bytes | bytearray, start: int = 0) -> int:
    """Find where a head ends.

    Args:
        data: what has been written so far, from the head's first byte. Lines may end in
            CRLF or LF, in any mixture.
        start: how much of it an earlier call has looked at already.

    Returns:
        The index just after the blank line, or -1 while there is none.
    """
    if start < 3:
        if COMPILED and isinstance(data, bytes) and (end := _near_end_of_head(data)) > 0:
            return end
        if data.startswith((b"\n", b"\r\n")):
            return 1 if data[0] == _LF else 2
        start = 0
    else:
        start -= 3  # the blank line may have begun in what was seen already
    # Two searches for what is nearly always the first of them take half as long as a pattern.
    found = data.find(b"\n\r\n", start)
    if found >= 0 and data.find(b"\n\n", start, found + 1) < 0:
        return found + 3
    bare = data.find(b"\n\n", start)
    return -1 if bare < 0 else bare + 2


def _near_end_of_head(data: bytes) -> "i64":
    """Where a head ends that ends within its first bytes, as those of handlers do; else -1.

    Compiled, to look at so many bytes takes less time than to have them searched.
    """
    last: i64 = min(len(data), _NEAR) - 1
    if last >= 0 and data[0] == _LF:
        return 1
    if last >= 1 and data[0] == _CR and data[1] == _LF:
        return 2
    at: i64 = 0
    while at < last:
        if data[at] == _LF:
            if data[at + 1] == _LF:
                return at + 2
            if data[at + 1] == _CR and at + 2 <= last and data[at + 2] == _LF:
                return at + 3
        at += 1
    return -1


def _parse_status(value: bytes, pattern: re.Pattern[bytes]) -> tuple[int, str]:
    found = pattern.fullmatch(value)
    if found is None:
        raise ResponseError(f"{value!r} does not say a status such as '404 Not Found'")
    return int(found[1]), (found[2] or b"").decode("latin-1")


def _split_line(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if line[:1] in {b" ", b"\t"}:
        # nginx and Apache fail on it, lighttpd loses it, Caddy and HAProxy join the lines.
        raise ResponseError(f"a header continued on a second line (RFC 9112 §5.2): {line!r}")
    if not colon:
        raise ResponseError(f"a line without a colon in the response head: {line!r}")
    return name, value.strip(b" \t")


def complete_head(head: bytes) -> tuple[bytes, int]:
    """Complete a head that a handler or script wrote itself (RFC 3875 §6.2).

    - Lines may end in CRLF or LF; they leave in CRLF.
    - Without ``Status`` it is a 302 when there is a ``Location`` and a 200 when not. A
      ``Location`` that is a local path is no exception: RFC 3875 §6.2.2 would have the front
      end serve that path in place, which of the known ones only mod_fcgid does, so the
      client is asked to go there, behind each of them.
    - A first line such as ``HTTP/1.1 201 Created`` counts as ``Status``: nginx would send a
      200, lighttpd understand it, the others fail.
    - A head of nothing but the blank line is a 200 without headers.
    - What :func:`encode_head` drops is dropped.

    Args:
        head: all of it, through the blank line.

    Returns:
        The head to send, and its status.

    Raises:
        ResponseError: it is no head: it does not end in its blank line; a bad name; a
            line without a colon or a folded one; NUL; CR within a line; a second ``Status``;
            a status that cannot be sent.
    """
    return _complete_again(head) if len(head) <= _LEARNED_HEAD else _complete(head)


def _complete(head: bytes) -> tuple[bytes, int]:
    if end_of_head(head) != len(head):
        raise ResponseError("a response head ends with its first blank line")
    status: int | None = None
    reason = ""
    has_location = False
    headers: list[tuple[bytes, bytes]] = []
    lines = head.replace(b"\r\n", b"\n").split(b"\n")[:-2]
    if lines and lines[0].startswith(b"HTTP/"):
        status, reason = _parse_status(lines.pop(0), _STATUS_LINE)
    for line in lines:
        name, value = _split_line(line)
        lowered = name.lower()
        if lowered == b"status":
            if status is not None:
                raise ResponseError(f"a second status in one response head: {line!r}")
            status, reason = _parse_status(value, _STATUS_VALUE)
            continue
        if lowered == b"location":
            has_location = True
        headers.append((name, value))
    if status is None:
        status = 302 if has_location else 200
    return encode_head(status, headers, reason=reason), status


# Handlers write the same few heads over and over: 0.2 µs instead of 5. Longer ones have
# cookies and the like in them, and are not worth the room.
_LEARNED_HEAD: Final = 256
_complete_again: Final = lru_cache(maxsize=128)(_complete)


def error_response(
    status: int,
    detail: str = "",
    *,
    headers: Sequence[tuple[bytes, bytes]] = (),
    head_only: bool = False,
) -> bytes:
    """Make a whole response that the server itself answers with: head and a line of text.

    Args:
        status: 200 to 999.
        detail: one sentence for whoever reads the answer. It goes to the client, so nothing
            about the inside belongs in it.
        headers: more headers, ``Retry-After`` say.
        head_only: leave the body out, as for HEAD. ``Content-Length`` still counts it.
    """
    body = f"{status} {_reason_for(status)}\n"
    if detail:
        body += f"{detail}\n"
    content = body.encode("utf-8", "replace")
    length = b"%d" % len(content)
    head = encode_head(
        status,
        [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", length),
            *headers,
        ],
    )
    return head if head_only else head + content
