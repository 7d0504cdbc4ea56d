"""The load: a fixed number of connections, each with one request at a time.

``python -m benchmark.load fastcgi|http unix:PATH|HOST:PORT CONNECTIONS SECONDS`` prints one
line of JSON. It is a process of its own, so that it can have a core of its own. The first
answer of each run is understood in full; the others have to be as long and to hold the same
body, which keeps the load far cheaper than what it measures.
"""

import collections
import errno
import json
import select
import socket
import struct
import sys
import time

__all__ = ["http_request", "nginx_like_request", "read_answer"]

EXPECTED = b"Hello, world!"
_END_REQUEST = 3

# What nginx 1.22 sends with its stock fastcgi_params for a browser's request.
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


def _record(record_type: int, content: bytes) -> bytes:
    padding = -len(content) % 8
    return (
        struct.pack(">BBHHBx", 1, record_type, 1, len(content), padding) + content + bytes(padding)
    )


def nginx_like_request() -> bytes:
    """One request with FCGI_KEEP_CONN, as nginx sends it."""
    pairs = bytearray()
    for name, value in PARAMS.items():
        pairs.append(len(name))
        pairs += (
            bytes([len(value)]) if len(value) < 128 else struct.pack(">I", len(value) | 1 << 31)
        )
        pairs += name.encode() + value.encode()
    return (
        _record(1, struct.pack(">HB5x", 1, 1))
        + _record(4, bytes(pairs))
        + _record(4, b"")
        + _record(5, b"")
    )


def http_request() -> bytes:
    """The same request before a front end has turned it into params."""
    headers = "".join(
        f"{name[5:].replace('_', '-').title()}: {value}\r\n"
        for name, value in PARAMS.items()
        if name.startswith("HTTP_")
    )
    return f"GET {PARAMS['REQUEST_URI']} HTTP/1.1\r\n{headers}\r\n".encode()


def _fastcgi_length(data: bytes) -> int | None:
    """Where the first answer ends, once it has."""
    at = 0
    stdout = b""
    while len(data) >= at + 8:
        record_type = data[at + 1]
        length = int.from_bytes(data[at + 4 : at + 6])
        padding = data[at + 6]
        if record_type == 6:
            stdout += data[at + 8 : at + 8 + length]
        at += 8 + length + padding
        if record_type == _END_REQUEST and len(data) >= at:
            if not stdout.endswith(EXPECTED):
                raise ValueError(f"not the expected answer: {stdout!r}")
            return at
    return None


def _http_length(data: bytes) -> int | None:
    head, blank, body = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    if not head.startswith(b"HTTP/1.1 200") or b"content-length: 13" not in head.lower():
        raise ValueError(f"not the expected answer: {data!r}")
    return len(head) + 4 + 13 if len(body) >= 13 else None


def read_answer(kind: str, data: bytes) -> int | None:
    """The length of a whole answer, or None while it is not.

    Raises:
        ValueError: it is not the answer that is expected.
    """
    return _fastcgi_length(data) if kind == "fastcgi" else _http_length(data)


def _connect(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target: str | tuple[str, int] = address.removeprefix("unix:")
    else:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, _, port = address.rpartition(":")
        target = (host, int(port))
    connection.settimeout(10)
    while True:
        try:
            connection.connect(target)
        except OSError as error:
            if error.errno != errno.EAGAIN:  # a Unix socket's full backlog
                raise
            time.sleep(0.001)
        else:
            connection.setblocking(False)
            return connection


class Load:
    """Connections under way, and what came back."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind = kind
        self.address = address
        self.request = nginx_like_request() if kind == "fastcgi" else http_request()
        self.length: int | None = None
        self.answers = 0
        self.reconnects = 0
        self.epoll = select.epoll()
        self.connections: dict[int, socket.socket] = {}
        self.received: collections.defaultdict[int, bytes] = collections.defaultdict(bytes)

    def open(self) -> None:
        connection = _connect(self.address)
        self.connections[connection.fileno()] = connection
        self.epoll.register(connection.fileno(), select.EPOLLIN)
        connection.send(self.request)

    def close(self, fd: int) -> None:
        self.epoll.unregister(fd)
        self.connections.pop(fd).close()
        self.received.pop(fd, None)

    def readable(self, fd: int) -> None:
        connection = self.connections[fd]
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            # A server that does not keep connections closes after the answer.
            if self.received.get(fd):
                raise ValueError(f"an answer was cut: {self.received[fd]!r}")
            self.close(fd)
            self.reconnects += 1
            self.open()
            return
        if self.received.get(fd):
            data = self.received.pop(fd) + data
        if len(data) != self.length or EXPECTED not in data:
            whole = read_answer(self.kind, data)
            if whole is None:
                self.received[fd] = data
                return
            self.length = whole
        self.answers += 1
        try:
            connection.send(self.request)
        except (BrokenPipeError, ConnectionResetError):
            self.close(fd)
            self.reconnects += 1
            self.open()

    def run(self, connections: int, seconds: float) -> dict[str, float]:
        """Keep the connections busy for so long."""
        for _ in range(connections):
            self.open()
        started = last_answer = time.perf_counter()
        while (now := time.perf_counter()) < started + seconds:
            before = self.answers
            for fd, _ in self.epoll.poll(0.5):
                if fd in self.connections:
                    self.readable(fd)
            if self.answers != before:
                last_answer = now
            elif now - last_answer > 5:
                raise TimeoutError("no answer for 5 s")
        elapsed = time.perf_counter() - started
        for fd in list(self.connections):
            self.close(fd)
        return {"answers": self.answers, "seconds": elapsed, "reconnects": self.reconnects}


def main() -> None:
    """Run as the module's docstring says."""
    kind, address, connections, seconds = sys.argv[1:]
    print(json.dumps(Load(kind, address).run(int(connections), float(seconds))))


if __name__ == "__main__":
    main()
