"""The load: connections that are kept, and rounds in which each carries one request.

A round is the same work each time. The server is held while all requests of a round are sent,
so that it finds them all at once, and nothing that it does depends on who is faster.
"""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

__all__ = ["CONNECTIONS", "Load", "loaded"]

CONNECTIONS: Final = 32
PATIENCE: Final = 120  # seconds for one step, of a server that runs fifty times slower than usual
ROOT: Final = Path(__file__).parents[2]

# What nginx 1.22 sends with its stock fastcgi_params for a browser's request.
PARAMS: Final = {
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
    head = struct.pack(">BBHHBx", 1, record_type, 1, len(content), padding)
    return head + content + bytes(padding)


def _request() -> bytes:
    block = bytearray()
    for name, value in PARAMS.items():
        block.append(len(name))
        short = len(value) < 128
        block += bytes([len(value)]) if short else struct.pack(">I", len(value) | 1 << 31)
        block += name.encode() + value.encode()
    begin = struct.pack(">HB5x", 1, 1)
    return _record(1, begin) + _record(4, bytes(block)) + _record(4, b"") + _record(5, b"")


def _ends(data: bytes) -> bool:
    """Whether the last record is an FCGI_END_REQUEST, and an answer came ahead of it."""
    return len(data) > 24 and data[-16:-14] == b"\x01\x03" and b"Hello, world!" in data


class Load:
    """Kept connections to one server, and the line to it on which it is held.

    Attributes:
        pid: the server's, or that of what it is wrapped in.
        answer: what came for the first request; every other answer has to be the same.
    """

    def __init__(self, path: str, line: socket.socket, pid: int) -> None:
        self._line = line
        self._request = _request()
        self.pid = pid
        self.answer = b""
        self._connections: list[socket.socket] = []
        line.settimeout(PATIENCE)
        if line.recv(1) != b"r":
            raise RuntimeError("the server has not started")
        for _ in range(CONNECTIONS):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(PATIENCE)
            connection.connect(path)
            self._connections.append(connection)

    def ask(self, command: bytes) -> bytes:
        """Hold the server, have it do something, and let it go on."""
        self._line.sendall(b"h")
        try:
            return self._order(command)
        finally:
            self._line.sendall(b"g")

    def _order(self, command: bytes) -> bytes:
        self._line.sendall(command)
        return self._receive(int.from_bytes(self._receive(4)))

    def _receive(self, size: int) -> bytes:
        """So many bytes. A socket with a timeout does not wait for all of them by itself."""
        data = b""
        while len(data) < size:
            more = self._line.recv(size - len(data))
            if not more:
                raise RuntimeError("the server has gone")
            data += more
        return data

    def rounds(self, number: int) -> None:
        """So many rounds: :data:`CONNECTIONS` requests in each.

        Raises:
            RuntimeError: an answer was not the expected one, or the server has gone.
        """
        for _ in range(number):
            self._line.sendall(b"h")
            self._order(b"n")  # it is held for certain
            for connection in self._connections:
                connection.sendall(self._request)
            self._line.sendall(b"g")
            for connection in self._connections:
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        data = connection.recv(65536)
        while not _ends(data):
            more = connection.recv(65536)
            if not more:
                raise RuntimeError(f"the server has closed a connection after {data!r}")
            data += more
        self.answer = self.answer or data
        if data != self.answer:
            raise RuntimeError(f"not the answer that came first: {data!r}")

    def close(self) -> None:
        """Let the server end."""
        for connection in self._connections:
            connection.close()
        self._line.close()


@contextlib.contextmanager
def loaded(
    kind: str, *, counter: str = "clock", argument: str = "", wrapper: Sequence[str] = ()
) -> Iterator[Load]:
    """Start :mod:`tests.speed.subject`, and load it.

    Args:
        kind: what answers.
        counter: what is counted inside it, and its argument.
        wrapper: a command that runs the command which follows it, ``strace`` say.
    """
    # What changes how Python runs would change the counts; the seed keeps dicts and sets alike.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "TRIFCGI_", "COVERAGE"))
    }
    environment["PYTHONHASHSEED"] = "0"
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryDirectory(prefix="trifcgi-speed-") as directory, ours:
        path = f"{directory}/socket"
        subject = [sys.executable, "-m", "tests.speed.subject", kind, path]
        log = Path(directory, "log")
        with theirs, log.open("wb") as output:
            process = subprocess.Popen(
                [*wrapper, *subject, str(theirs.fileno()), counter, argument],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
            )
        try:
            load = Load(path, ours, process.pid)
            try:
                yield load
            finally:
                load.close()
            # It ends by itself, so that whatever is wrapped around it can finish its file.
            process.wait(PATIENCE)
        except Exception as error:
            error.add_note("What the server said: " + log.read_text(errors="replace")[-2000:])
            raise
        finally:
            process.kill()
            process.wait()
