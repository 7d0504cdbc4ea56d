r"""A line of the access log in the combined format; compiled.

Peers choose nearly everything in a line. ``"`` and ``\`` are written ``\"`` and ``\\``,
control characters and bytes that are not UTF-8 ``\xNN``.
"""

from collections.abc import Mapping
from typing import Final

from trifcgi.observe.instrument import Outcome, StopReason
from trifcgi.protocol.pairs import long_lengths

__all__ = ["Fields", "combined_line", "end_of", "fields_in", "fields_of", "target_of"]

Fields = list[bytes]
"""The values that a line tells, in this order: REMOTE_ADDR, REMOTE_USER, REQUEST_METHOD,
REQUEST_URI, SERVER_PROTOCOL, HTTP_REFERER, HTTP_USER_AGENT, SCRIPT_NAME, PATH_INFO, QUERY_STRING;
``b""`` for one that was not sent."""

_NAMES: Final = (
    b"REMOTE_ADDR", b"REMOTE_USER", b"REQUEST_METHOD", b"REQUEST_URI", b"SERVER_PROTOCOL",
    b"HTTP_REFERER", b"HTTP_USER_AGENT", b"SCRIPT_NAME", b"PATH_INFO", b"QUERY_STRING",
)  # fmt: skip
_PLACES: Final = {name: place for place, name in enumerate(_NAMES)}
_WANTED: Final = [False] * (16 << 8)
"""Whether a name of that length (above) and first byte (below) may be looked for."""
for _name in _NAMES:
    _WANTED[len(_name) << 8 | _name[0]] = True

_UNSAFE: Final = bytes(c for c in range(256) if not 0x20 <= c < 0x7F or c in b'"\\')

_SPACE: Final = 0x20  # as a number: bytes that hold bytes are sought by way of an exception

_ENDS: Final[Mapping[StopReason | None, str]] = {
    None: "complete",
    **{reason: reason.value.replace(" ", "-") for reason in StopReason},
}
_RESPONDER: Final = 1
_ROLES: Final = {2: " role=authorizer", 3: " role=filter"}
_STATUSES: Final = [f"{status:03}" for status in range(1000)]


def fields_in(block: bytes) -> Fields:
    """Find the fields in an encoded block of params that is known to be well-formed.

    A name that occurs twice counts as it was sent last (nginx sends REMOTE_USER twice where the
    configuration overrides its stock params).
    """
    fields = [b""] * 10
    at = 0
    end = len(block)
    while at < end:
        name_length = block[at]
        value_length = block[at + 1]
        if name_length < 128 and value_length < 128:
            at += 2
        else:
            at, name_length, value_length = long_lengths(block, at)
        middle = at + name_length
        # Most names are not looked for, and two numbers tell.
        if 0 < name_length < 16 and _WANTED[name_length << 8 | block[at]]:
            place = _PLACES.get(block[at:middle])
            if place is not None:
                fields[place] = block[middle : middle + value_length]
        at = middle + value_length
    return fields


def fields_of(params: Mapping[bytes, bytes]) -> Fields:
    """The fields of params that have been decoded."""
    return [params.get(name, b"") for name in _NAMES]


def combined_line(fields: Fields, role: int, outcome: Outcome, stamp: bytes) -> bytes:
    """The line of one request, with its newline.

    Args:
        fields: what the front end sent.
        role: the request's role.
        outcome: how it ended.
        stamp: when it ended, as the format writes it.
    """
    address = fields[0] or b"-"
    user = fields[1] or b"-"
    method = fields[2] or b"-"
    target = fields[3] or target_of(fields) or b"-"
    protocol = fields[4] or b"-"
    referer = fields[5] or b"-"
    agent = fields[6] or b"-"
    told = b"".join([address, user, method, target, protocol, referer, agent])
    # One pass over all that the peer chose, and a second look only where that finds
    # something. The first two fields stand outside quotes.
    if len(told.translate(None, _UNSAFE)) != len(told) or _SPACE in user or _SPACE in address:
        address = _escaped(address).replace(b" ", rb"\x20")
        user = _escaped(user).replace(b" ", rb"\x20")
        method, target, protocol = _escaped(method), _escaped(target), _escaped(protocol)
        referer, agent = _escaped(referer), _escaped(agent)
    status = outcome.status or 0
    status_text = _STATUSES[status] if 0 <= status < 1000 else str(status)
    micros = int(outcome.duration * 1e6 + 0.5)
    fraction = str(1_000_000 + micros % 1_000_000)[1:]
    told_role = "" if role == _RESPONDER else _ROLES.get(role, f" role={role}")
    size = f'" {status_text} {outcome.body_bytes} "'
    rest = (
        f'" time={micros // 1_000_000}.{fraction} in={outcome.bytes_in}'
        f" app_status={outcome.app_status} end={end_of(outcome)}{told_role}\n"
    )
    return b"".join([
        address, b" - ", user, b" [", stamp, b'] "', method, b" ", target, b" ", protocol,
        size.encode(), referer, b'" "', agent, rest.encode(),
    ])  # fmt: skip


def end_of(outcome: Outcome) -> str:
    """Why a request ended, in a word."""
    reason = outcome.reason
    if reason is None:
        if outcome.refused:
            return "refused"
        return "failed" if outcome.failed else "complete"
    return _ENDS[reason]


def target_of(fields: Fields) -> bytes:
    """The request target, where the front end sends no REQUEST_URI; ``b""`` if it is not told."""
    path = fields[7] + fields[8]
    query = fields[9]
    return path + b"?" + query if query else path


def _escaped(value: bytes) -> bytes:
    if len(value.translate(None, _UNSAFE)) == len(value):
        return value
    value = value.replace(b"\\", rb"\\").replace(b'"', rb"\"")
    text = value.decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join([c if c.isprintable() else _spelled(c) for c in text])
    return text.encode()


def _spelled(character: str) -> str:
    return "".join([f"\\x{byte:02x}" for byte in character.encode()])
