r"""A line of the access log, as text in the combined format or as JSON; compiled.

Peers choose nearly everything in a line. In text ``"`` and ``\`` are written ``\"`` and ``\\``,
control characters and bytes that are not UTF-8 ``\xNN``. In JSON bytes that are not UTF-8 stand as
the text ``\xNN``.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from trifcgi.cgi.known import (
    PATH_INFO,
    QUERY_STRING,
    REMOTE_ADDR,
    REMOTE_USER,
    REQUEST_METHOD,
    REQUEST_URI,
    SCRIPT_NAME,
    SERVER_PROTOCOL,
    Leaf,
)
from trifcgi.cgi.reading import Reading
from trifcgi.observe.instrument import Outcome
from trifcgi.observe.log_file import FLUSH_SIZE
from trifcgi.observe.recorder import COMPLETE, Recorder, end_of
from trifcgi.protocol.pairs import long_lengths

if TYPE_CHECKING:
    from mypy_extensions import i64

    from trifcgi.observe.log_file import LogFile

__all__ = ["AccessLines", "Fields", "combined_line", "fields_in", "fields_of", "json_line"]

_log: Final = logging.getLogger("trifcgi.access_log")

Fields = list[bytes]
"""The values that a line tells, in this order: REMOTE_ADDR, REMOTE_USER, REQUEST_METHOD,
REQUEST_URI, SERVER_PROTOCOL, HTTP_REFERER, HTTP_USER_AGENT, SCRIPT_NAME, PATH_INFO, QUERY_STRING;
``b""`` for one that was not sent."""

_NAMES: Final = [
    b"REMOTE_ADDR", b"REMOTE_USER", b"REQUEST_METHOD", b"REQUEST_URI", b"SERVER_PROTOCOL",
    b"HTTP_REFERER", b"HTTP_USER_AGENT", b"SCRIPT_NAME", b"PATH_INFO", b"QUERY_STRING",
]  # fmt: skip
_TARGET: Final = 3
_SHOWN: Final = 7  # the others matter only where the target is not told in one piece
_SHORTEST: Final = 9
_LONGEST: Final = 15


def _places(names: list[bytes]) -> bytes:
    """Which of the names a name can be, by its length (above) and two of its bytes (below): its
    place and one more; 0 for none.
    """
    places = bytearray(_LONGEST + 1 << 8)
    for name in names:
        places[len(name) << 8 | name[0] ^ name[_SHORTEST - 1]] = _NAMES.index(name) + 1
    return bytes(places)


_USUAL_PLACES: Final = _places(_NAMES[:_SHOWN])
_PLACES: Final = _places(_NAMES)

# What stands for itself in both formats, and a byte that does not for everything else.
_PLAIN: Final = bytes(c if 0x20 <= c < 0x7F and c not in b'"\\' else c ^ 0xFF for c in range(256))
_SPACE: Final = 0x20  # as a number: bytes that hold bytes are sought by way of an exception

_RESPONDER: Final = 1
_ROLES: Final = {1: "responder", 2: "authorizer", 3: "filter"}

# What lines are put together of: to make a number takes longer than much of the rest.
_THREE_DIGITS: Final = [b"%03d" % number for number in range(1000)]
_UP_TO_THREE: Final = [b"%d" % number for number in range(1000)]
_TIMES: Final = [b'" time=0.%03d' % millis for millis in range(1000)]
_USUAL_END: Final = b" in=0 app_status=0 end=complete\n"
_USUAL_ENDS: Final = [digits + _USUAL_END for digits in _THREE_DIGITS]
# By status; each made when it first comes.
_CODES: Final = [b""] * 1000
_CODES_2: Final = [b""] * 1000

# Requests whose lines are formed together at most, and bytes of their params.
_MOST_UNFORMED: Final = 32
_MOST_HELD: Final = 256 * 1024


def fields_in(block: bytes) -> Fields:
    """Find the fields in an encoded block of params that is known to be well-formed.

    A name that occurs twice counts as it was sent last (nginx sends REMOTE_USER twice where the
    configuration overrides its stock params).
    """
    return _fields_at(block, _PLACES)


def _needed_fields(block: bytes) -> Fields:
    fields = _fields_at(block, _USUAL_PLACES)
    return fields if fields[_TARGET] else fields_in(block)


def _fields_at(block: bytes, places: bytes) -> Fields:
    fields = [b"", b"", b"", b"", b"", b"", b"", b"", b"", b""]
    at: i64 = 0
    end: i64 = len(block)
    while at < end:
        name_length: i64 = block[at]
        value_length: i64 = block[at + 1]
        if name_length < 128 and value_length < 128:
            at += 2
        else:
            at, name_length, value_length = long_lengths(block, at)
        middle: i64 = at + name_length
        stop: i64 = middle + value_length
        if _SHORTEST <= name_length <= _LONGEST:
            # Most names are not looked for, and two of their bytes tell.
            place: i64 = places[name_length << 8 | block[at] ^ block[at + _SHORTEST - 1]]
            if (
                place != 0
                and (value_length != 0 or fields[place - 1])
                and block[at:middle] == _NAMES[place - 1]
            ):
                fields[place - 1] = block[middle:stop]
        at = stop
    return fields


def fields_of(params: Mapping[bytes, bytes]) -> Fields:
    """The fields of params that have been decoded."""
    return [params.get(name, b"") for name in _NAMES]


def _fields_of_known(reading: Reading, leaf: Leaf) -> Fields:
    """The fields of params that were known when they came."""
    values = reading.values
    found = reading.found
    fields = [
        _or_nothing(values[REMOTE_ADDR]),
        _or_nothing(values[REMOTE_USER]),
        _or_nothing(values[REQUEST_METHOD]),
        _or_nothing(values[REQUEST_URI]),
        _or_nothing(values[SERVER_PROTOCOL]),
        found[leaf.referer] if leaf.referer >= 0 else b"",
        found[leaf.agent] if leaf.agent >= 0 else b"",
    ]
    if not fields[_TARGET]:
        fields.append(_or_nothing(values[SCRIPT_NAME]))
        fields.append(_or_nothing(values[PATH_INFO]))
        fields.append(_or_nothing(values[QUERY_STRING]))
    return fields


def _or_nothing(value: bytes | None) -> bytes:
    return b"" if value is None else value


class _Second:
    """A second of time, as lines have it.

    Attributes:
        stamp: as the format writes it.
        before_method: in text, what stands between address and method, where there is no user.
        before_target: the same with the most usual method.
    """

    __slots__ = ("before_method", "before_target", "stamp")

    def __init__(self, stamp: bytes) -> None:
        self.stamp = stamp
        self.before_method = b' - - [%b] "' % stamp
        self.before_target = self.before_method + b"GET "


class _Unformed:
    """A request whose line is still to be formed: what :meth:`AccessLines.record` is told.

    Attributes:
        fields: ``None``: to be found in the block.
        second: when it ended.
    """

    __slots__ = (
        "app_status", "block", "body_bytes", "bytes_in", "duration", "end", "fields", "role",
        "second", "status",
    )  # fmt: skip

    def __init__(
        self,
        block: bytes,
        fields: Fields | None,
        role: "i64",
        status: "i64",
        body_bytes: int,
        bytes_in: int,
        duration: float,
        app_status: int,
        end: str,
        second: _Second,
    ) -> None:
        self.block = block
        self.fields = fields
        self.role: i64 = role
        self.status: i64 = status
        self.body_bytes = body_bytes
        self.bytes_in = bytes_in
        self.duration = duration
        self.app_status = app_status
        self.end = end
        self.second = second

    def find_fields(self) -> Fields:
        """Give the fields. To decode all params, where nobody else has, would cost more."""
        fields = self.fields
        if fields is None:
            fields = self.fields = _needed_fields(self.block)
        return fields


class AccessLines(Recorder):
    """Adds a line to a log for every request that ends.

    A line is formed together with those of other requests: one after the other they find the code
    and the tables in the processor's cache.

    Args:
        file: the log.
        as_json: which of the formats.
        clock: seconds since 1970.
        stamp: writes a time, given in whole seconds, as the format wants it.
        wake: called when a line comes and none was expected.

    Attributes:
        expected: whether whoever was woken still looks for lines.
    """

    __slots__ = (
        "_as_json",
        "_clock",
        "_file",
        "_held",
        "_lines",
        "_second",
        "_second_began",
        "_size",
        "_stamp_at",
        "_unformed",
        "_wake",
        "expected",
    )

    def __init__(
        self,
        file: "LogFile",
        as_json: bool,
        clock: Callable[[], float],
        stamp: Callable[[int], bytes],
        wake: Callable[[], None],
    ) -> None:
        self._file = file
        self._lines: list[bytes] = file.lines
        self._unformed: list[_Unformed] = []
        self._held: i64 = 0
        self._size: i64 = 0
        self._as_json = as_json
        self._clock = clock
        self._stamp_at = stamp
        self._wake = wake
        self._second_began = -1.0
        self._second = _Second(b"")
        self.expected = False
        file.complete.append(self.form)

    def record(
        self,
        block: bytes,
        params: Mapping[bytes, bytes],
        reading: Reading | None,
        role: int,
        status: int,
        body_bytes: int,
        bytes_in: int,
        duration: float,
        app_status: int,
        end: str,
    ) -> None:
        """Take note of what this request's line tells."""
        now = self._clock()
        if not self._second_began <= now < self._second_began + 1.0:
            self._begin_second(now)
        leaf = None if reading is None else reading.leaf
        if reading is not None and leaf is not None:
            fields: Fields | None = _fields_of_known(reading, leaf)
        else:
            fields = None if block else fields_of(params)
        self._unformed.append(
            _Unformed(
                block if fields is None else b"", fields, role, status, body_bytes, bytes_in,
                duration, app_status, end, self._second,
            )
        )  # fmt: skip
        # Fields are no more than their block.
        self._held += len(block) if block else _size_of(fields)
        if self._held >= _MOST_HELD or len(self._unformed) >= _MOST_UNFORMED:
            self.form()
        if not self.expected:
            self.expected = True
            self._wake()

    def form(self) -> None:
        """Form the lines that are still to be formed."""
        unformed = self._unformed
        if not unformed:
            return
        self._unformed = []
        self._held = 0
        if not self._as_json:
            lines = _plain_lines(unformed)
            if lines:
                self._add(lines)
                return
        for one in unformed:
            try:
                line = _as_json(one) if self._as_json else _combined(one)
            except Exception:  # noqa: BLE001 - logged; the file never fails its writer
                _log.exception("a line of the access log cannot be formed; it is left out")
            else:
                self._add(line)

    def _add(self, formed: bytes) -> None:
        lines = self._lines
        if not lines:
            self._size = 0
        lines.append(formed)
        self._size += len(formed)
        if self._size >= FLUSH_SIZE:
            self._file.flush()

    def _begin_second(self, now: float) -> None:
        second = int(now)
        self._second_began = float(second)
        self._second = _Second(self._stamp_at(second))


def combined_line(fields: Fields, role: int, outcome: Outcome, stamp: bytes) -> bytes:
    """The line of one request in the combined format, with its newline.

    Args:
        fields: what the front end sent.
        role: the request's role.
        outcome: how it ended.
        stamp: when it ended, as the format writes it.
    """
    one = _unformed(fields, role, outcome, stamp)
    return _plain_lines([one]) or _combined(one)


def json_line(fields: Fields, role: int, outcome: Outcome, stamp: str) -> bytes:
    """The same as a JSON object; what the front end did not send is ``null``."""
    return _as_json(_unformed(fields, role, outcome, stamp.encode()))


def _unformed(fields: Fields, role: int, outcome: Outcome, stamp: bytes) -> _Unformed:
    return _Unformed(
        b"", fields, role, outcome.status or 0, outcome.body_bytes, outcome.bytes_in,
        outcome.duration, outcome.app_status,
        end_of(outcome.reason, outcome.failed, outcome.refused), _Second(stamp),
    )  # fmt: skip


def _plain_lines(unformed: list[_Unformed]) -> bytes:
    """The lines of several requests, if nothing in them has to be escaped; else ``b""``.

    All are put together and looked at in one go: what a line costs is its pieces, and hardly ever
    is one of those that a peer has chosen out of the ordinary.
    """
    parts: list[bytes] = []
    chosen: list[bytes] = []
    try:
        for one in unformed:
            fields = one.find_fields()
            if _SPACE in fields[0] or (len(fields[1]) and _SPACE in fields[1]):
                return b""
            _put_together(one, fields, parts, chosen)
    except Exception:  # noqa: BLE001 - comes again with the line that it belongs to, and is logged
        return b""
    return b"".join(parts) if _is_plain(b"".join(chosen)) else b""


def _combined(one: _Unformed) -> bytes:
    """A line in which something may have to be escaped."""
    fields = one.find_fields().copy()
    fields[_TARGET] = fields[_TARGET] or _target_of(fields)
    for at in range(_SHOWN):
        fields[at] = _escaped(fields[at])
    # These two stand outside quotes.
    fields[0] = fields[0].replace(b" ", rb"\x20")
    fields[1] = fields[1].replace(b" ", rb"\x20")
    parts: list[bytes] = []
    _put_together(one, fields, parts, [])
    return b"".join(parts)


def _put_together(one: _Unformed, fields: Fields, parts: list[bytes], chosen: list[bytes]) -> None:
    """Append what a line is joined of to ``parts``, and those that a peer has chosen, unless they
    are the usual ones, to ``chosen``.
    """
    address = _told(fields[0])
    user = fields[1]
    method = fields[2]
    target = fields[_TARGET] if len(fields[_TARGET]) else _told(_target_of(fields))
    protocol = fields[4]
    referer = fields[5]
    agent = _told(fields[6])
    chosen.append(address)
    chosen.append(target)
    chosen.append(agent)
    parts.append(address)
    if len(user):
        chosen.append(user)
        parts.append(b" - %b%b" % (user, one.second.before_method[4:]))
    if method == b"GET" and not len(user):
        parts.append(one.second.before_target)
    else:
        chosen.append(method)
        if not len(user):
            parts.append(one.second.before_method)
        parts.append(_told(method) + b" ")
    parts.append(target)
    code = _usual_code(protocol, one.status)
    if not code:
        chosen.append(protocol)
        code = b' %b" %03d ' % (_told(protocol), one.status)
    parts.append(code)
    parts.append(_number(one.body_bytes))
    if len(referer):
        chosen.append(referer)
        parts.append(b' "%b" "' % referer)
    else:
        parts.append(b' "-" "')
    parts.append(agent)
    micros: i64 = int(one.duration * 1e6 + 0.5)
    millis: i64 = micros // 1000
    if millis < 1000:
        parts.append(_TIMES[millis])
    else:
        parts.append(b'" time=%d.%b' % (millis // 1000, _THREE_DIGITS[millis % 1000]))
    role = one.role
    if one.bytes_in == 0 and one.app_status == 0 and one.end == COMPLETE and role == _RESPONDER:
        parts.append(_USUAL_ENDS[micros % 1000])
    else:
        parts.append(_THREE_DIGITS[micros % 1000])
        told_role = "" if role == _RESPONDER else f" role={_ROLES.get(role, str(role))}"
        rest = f" in={one.bytes_in} app_status={one.app_status} end={one.end}{told_role}\n"
        parts.append(rest.encode())


def _usual_code(protocol: bytes, status: "i64") -> bytes:
    """What stands between target and size, if it is one of the usual ones; else ``b""``."""
    if not 0 <= status < 1000:
        return b""
    if protocol == b"HTTP/1.1":
        codes = _CODES
    elif protocol == b"HTTP/2.0":
        codes = _CODES_2
    else:
        return b""
    code = codes[status]
    if not code:
        code = codes[status] = b' %b" %03d ' % (protocol, status)
    return code


def _as_json(one: _Unformed) -> bytes:
    fields = one.find_fields()
    uri = fields[_TARGET] or _target_of(fields) or b"-"
    told = b"".join((
        fields[0], fields[1], fields[2], uri, fields[4], fields[5], fields[6],
    ))  # fmt: skip
    plain = _is_plain(told)
    return (
        b'{"time": "%b", "logger": "trifcgi.access", "remote_addr": %b, "remote_user": %b, '
        b'"method": %b, "uri": %b, "protocol": %b, "status": %b, "bytes": %b, "referer": %b, '
        b'"user_agent": %b, "duration": %b, "bytes_in": %b, "app_status": %b, "end": "%b", '
        b'"role": %b}\n' % (
            one.second.stamp,
            _text(fields[0], plain), _text(fields[1], plain), _text(fields[2], plain),
            _text(uri, plain), _text(fields[4], plain),
            _number(one.status) if one.status else b"null", _number(one.body_bytes),
            _text(fields[5], plain), _text(fields[6], plain),
            b"%.6f" % one.duration, _number(one.bytes_in), _number(one.app_status),
            one.end.encode(),
            b'"%b"' % _ROLES[one.role].encode() if one.role in _ROLES else _number(one.role),
        )
    )  # fmt: skip


def _text(value: bytes, plain: bool) -> bytes:
    if not value:
        return b"null"
    if plain:
        return b'"%b"' % value
    return json.dumps(value.decode("utf-8", "backslashreplace")).encode()


def _number(number: int) -> bytes:
    if 0 <= number < 1000:
        return _UP_TO_THREE[number]
    if 0 <= number < 1_000_000:
        return b"%b%b" % (_UP_TO_THREE[number // 1000], _THREE_DIGITS[number % 1000])
    return b"%d" % number


def _told(value: bytes) -> bytes:
    return value if len(value) else b"-"


def _target_of(fields: Fields) -> bytes:
    """The request target, where the front end sends no REQUEST_URI; ``b""`` if it is not told."""
    if len(fields) <= _SHOWN:
        return b""
    path = fields[7] + fields[8]
    query = fields[9]
    return path + b"?" + query if query else path


def _is_plain(value: bytes) -> bool:
    # Where nothing changes it is the same object, which is compared in no time.
    return value.translate(_PLAIN) == value


def _size_of(fields: Fields | None) -> int:
    return 0 if fields is None else sum([len(field) for field in fields])


def _escaped(value: bytes) -> bytes:
    if _is_plain(value):
        return value
    value = value.replace(b"\\", rb"\\").replace(b'"', rb"\"")
    text = value.decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join([c if c.isprintable() else _spelled(c) for c in text])
    return text.encode()


def _spelled(character: str) -> str:
    return "".join([f"\\x{byte:02x}" for byte in character.encode()])
