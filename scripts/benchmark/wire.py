"""What the load sends and what has to come back, as FastCGI and as HTTP.

Written out here rather than taken from trifcgi: a load that shares the codec of one of the servers
would share its mistakes.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "ABORT_REQUEST",
    "END_REQUEST",
    "PARAMS",
    "Answer",
    "fastcgi_request",
    "http_request",
    "read_fastcgi",
    "read_http",
    "record",
]

BEGIN_REQUEST = 1
ABORT_REQUEST = 2
END_REQUEST = 3
_PARAMS = 4
_STDIN = 5
_STDOUT = 6
_STDIN_PIECE = 32 * 1024  # nginx 1.22 passes a body on in buffers of this size

PARAMS = {
    "QUERY_STRING": "",
    "REQUEST_METHOD": "GET",
    "CONTENT_TYPE": "",
    "CONTENT_LENGTH": "",
    "SCRIPT_NAME": "/shop/articles/4711",
    "REQUEST_URI": "/shop/articles/4711",
    "DOCUMENT_URI": "/shop/articles/4711",
    "DOCUMENT_ROOT": "/usr/share/nginx/html",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_SCHEME": "http",
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SERVER_SOFTWARE": "nginx/1.22.1",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "51234",
    "REMOTE_USER": "",
    "SERVER_ADDR": "127.0.0.1",
    "SERVER_PORT": "8080",
    "SERVER_NAME": "shop.example",
    "REDIRECT_STATUS": "200",
    "HTTP_HOST": "shop.example",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "HTTP_ACCEPT_LANGUAGE": "en-US,en;q=0.5",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate, br",
    "HTTP_CONNECTION": "keep-alive",
    "HTTP_COOKIE": "session=0123456789abcdef0123456789abcdef; theme=dark",
    "HTTP_UPGRADE_INSECURE_REQUESTS": "1",
    "HTTP_SEC_FETCH_DEST": "document",
    "HTTP_SEC_FETCH_MODE": "navigate",
    "HTTP_SEC_FETCH_SITE": "none",
    "HTTP_CACHE_CONTROL": "max-age=0",
}
"""What nginx 1.22 sends with its stock fastcgi_params for a browser's request."""


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        length: bytes that it takes on the wire.
        status: the HTTP status.
        body: after the head.
        request_id: whose it is; 0 for HTTP.
    """

    length: int
    status: int
    body: bytes
    request_id: int = 0


def record(record_type: int, request_id: int, content: bytes) -> bytes:
    """One FastCGI record (§3.3), padded to 8 bytes as nginx pads."""
    padding = -len(content) % 8
    header = struct.pack(">BBHHBx", 1, record_type, request_id, len(content), padding)
    return header + content + bytes(padding)


def _pairs(params: Mapping[str, str]) -> bytes:
    block = bytearray()
    for name, value in params.items():
        for text in (name, value):
            length = len(text.encode())
            block += bytes([length]) if length < 128 else struct.pack(">I", length | 1 << 31)
        block += name.encode() + value.encode()
    return bytes(block)


def fastcgi_request(
    request_id: int = 1,
    *,
    keep: bool = True,
    body: bytes = b"",
    params: Mapping[str, str] | None = None,
) -> bytes:
    """A request as nginx sends it.

    Args:
        request_id: its ID.
        keep: whether FCGI_KEEP_CONN is set.
        body: of a POST; without one it is a GET.
        params: to be sent besides :data:`PARAMS`.
    """
    all_params = PARAMS | dict(params or {})
    if body:
        all_params |= {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": str(len(body))}
    pieces = [body[at : at + _STDIN_PIECE] for at in range(0, len(body), _STDIN_PIECE)]
    return b"".join(
        (
            record(BEGIN_REQUEST, request_id, struct.pack(">HB5x", 1, keep)),
            record(_PARAMS, request_id, _pairs(all_params)),
            record(_PARAMS, request_id, b""),
            *(record(_STDIN, request_id, piece) for piece in pieces),
            record(_STDIN, request_id, b""),
        )
    )


def http_request(*, keep: bool = True, body: bytes = b"") -> bytes:
    """The same request before a front end has turned it into params."""
    headers = {
        name[5:].replace("_", "-").title(): value
        for name, value in PARAMS.items()
        if name.startswith("HTTP_")
    }
    if not keep:
        headers["Connection"] = "close"
    if body:
        headers["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    method = "POST" if body else "GET"
    return f"{method} {PARAMS['REQUEST_URI']} HTTP/1.1\r\n{lines}\r\n".encode() + body


def _headers(head: bytes) -> dict[bytes, bytes]:
    pairs = (line.partition(b":") for line in head.split(b"\r\n"))
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def read_fastcgi(data: bytes) -> Answer | None:
    """The answer that the data begins with, or None while it is not whole.

    Raises:
        ValueError: these are not the records of one answer, or it has no head.
    """
    at = 0
    request_id = 0
    stdout = []
    while len(data) >= at + 8:
        version, record_type, record_id, length, padding = struct.unpack_from(">BBHHB", data, at)
        if version != 1 or record_id != (request_id or record_id):
            raise ValueError(f"not the records of one answer: {data[:1000]!r}")
        request_id = record_id
        content = data[at + 8 : at + 8 + length]
        at += 8 + length + padding
        if record_type == _STDOUT:
            stdout.append(content)
        elif record_type == END_REQUEST and len(data) >= at:
            head, blank, body = b"".join(stdout).partition(b"\r\n\r\n")
            if not blank or any(content[:5]):
                raise ValueError(f"a failed request: {data[:1000]!r}")
            status = int(_headers(head).get(b"status", b"200")[:3])
            return Answer(at, status, body, request_id)
    return None


def read_http(data: bytes) -> Answer | None:
    """The answer that the data begins with, or None while it is not whole.

    Raises:
        ValueError: it is not HTTP, or says no Content-Length.
    """
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    headers = _headers(head)
    if not head.startswith(b"HTTP/1.") or b"content-length" not in headers:
        raise ValueError(f"not an answer with a length: {data[:1000]!r}")
    length = int(headers[b"content-length"])
    if len(rest) < length:
        return None
    return Answer(len(head) + 4 + length, int(head[9:12]), rest[:length])
