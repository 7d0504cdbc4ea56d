"""Read a CGI response head the way front ends do (RFC 3875 §6.3)."""

import re

import attrs

from trifcgi.cgi import end_of_head
from trifcgi.errors import ResponseError
from trifcgi.protocol import ProtocolStatus

__all__ = ["MAX_HEAD", "Response", "ResponseHead", "parse_head", "split_response"]

MAX_HEAD = 128 * 1024
"""Bytes of head that are looked through for its end. Caddy 2.6 took 66 KB, the most of
the front ends tried; whatever is longer no front end would pass on."""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STATUS = re.compile(rb"([2-9][0-9]{2})(?: (.*))?")


@attrs.define(kw_only=True)
class ResponseHead:
    """The head of a response.

    Attributes:
        status: the HTTP status, 200 to 999. Without a ``Status`` header it is 200, or
            302 where there is a ``Location`` (RFC 3875 §6.2).
        reason: the words after the number; often empty.
        headers: the other headers as (name, value), in order, with duplicates, as
            they came; Latin-1.
    """

    status: int
    reason: str
    headers: list[tuple[str, str]]

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of the first header of that name, whatever its case."""
        wanted = name.lower()
        for found, value in self.headers:
            if found.lower() == wanted:
                return value
        return default


@attrs.define(kw_only=True)
class Response(ResponseHead):
    """A whole response: what :meth:`Client.request` returns.

    Where the output has no CGI head (nothing was sent, or bytes that are none),
    ``status`` is 0, ``headers`` is empty and ``body`` has every byte.

    Attributes:
        body: what came on FCGI_STDOUT after the head.
        stderr: what came on FCGI_STDERR.
        app_status: the application status from FCGI_END_REQUEST (§5.5).
        protocol_status: the protocol status from it: a ``ProtocolStatus``, or an int
            where the number is unknown.
    """

    body: bytes
    stderr: bytes
    app_status: int
    protocol_status: ProtocolStatus | int


def parse_head(head: bytes) -> ResponseHead:
    """Parse a head, its blank line included.

    Raises:
        ResponseError: a line is no header, or ``Status`` is no status from 200 to 999.
    """
    status, reason = 0, ""
    headers: list[tuple[str, str]] = []
    for line in head.split(b"\n"):
        line = line.removesuffix(b"\r")
        if not line:
            continue
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not _NAME.fullmatch(name) or b"\r" in value or b"\0" in value:
            raise ResponseError(f"{line[:80]!r} in the response head is no header")
        if name.lower() == b"status":
            status, reason = _parse_status(value)
        else:
            headers.append((name.decode("latin-1"), value.decode("latin-1")))
    if not status:
        status = 302 if any(name.lower() == "location" for name, _ in headers) else 200
    return ResponseHead(status=status, reason=reason, headers=headers)


def _parse_status(value: bytes) -> tuple[int, str]:
    match = _STATUS.fullmatch(value)
    if match is None:
        raise ResponseError(f"{value[:80]!r} is no status")
    return int(match[1]), (match[2] or b"").decode("latin-1")


def split_response(output: bytes) -> tuple[ResponseHead, bytes]:
    """Split a whole FCGI_STDOUT into its head and its body.

    Output without a CGI head gives status 0, no headers and all of it as the body:
    front ends differ on what to make of it (nginx 1.22 answers 502, Apache 2.4 shows the
    bytes), and who looks for the fault wants to see them.
    """
    end = end_of_head(output[:MAX_HEAD])
    if end >= 0:
        try:
            return parse_head(output[:end]), output[end:]
        except ResponseError:
            pass
    return ResponseHead(status=0, reason="", headers=[]), output
