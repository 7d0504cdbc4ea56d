"""The load: connections that are kept, and rounds in which each carries one request.

A round is the same work each time. The server is held while all requests of a round are sent,
so that it finds them all at once, and nothing that it does depends on who is faster.
"""

import contextlib
import itertools
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = ["CONNECTIONS", "MIXED", "Load", "loaded"]

CONNECTIONS: Final = 32
PATIENCE: Final = 120  # seconds for one step, of a server that runs fifty times slower than usual
ROOT: Final = Path(__file__).parents[2]

MIXED: Final = "mixed"
"""The kind that gets :func:`_mixed` requests; all others get one and the same."""

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


def _request(params: Mapping[str, str]) -> bytes:
    block = bytearray()
    for name, value in params.items():
        block.append(len(name))
        short = len(value) < 128
        block += bytes([len(value)]) if short else struct.pack(">I", len(value) | 1 << 31)
        block += name.encode() + value.encode()
    begin = struct.pack(">HB5x", 1, 1)
    return _record(1, begin) + _record(4, bytes(block)) + _record(4, b"") + _record(5, b"")


_FIREFOX: Final = PARAMS["HTTP_USER_AGENT"]
_CHROME: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/126.0.0.0 Safari/537.36"
)
_SAFARI: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)
_LANGUAGES: Final = ("en-US,en;q=0.5", "de,en-US;q=0.7,en;q=0.3", "fr-FR,fr;q=0.9")


def _mixed(at_random: random.Random) -> Mapping[str, str]:
    """What nginx sends for one of many clients: of three hosts, with and without a query, cookies
    and a page that they come from, four in five from browsers.
    """
    params = dict(PARAMS)
    host = at_random.choice(("shop.example", "www.example", "api.example"))
    place = at_random.choice(("articles", "carts", "search"))
    path = f"/shop/{place}/{at_random.randrange(10_000)}"
    query = f"page={at_random.randrange(100)}" if at_random.random() < 0.4 else ""
    params["QUERY_STRING"] = query
    params["SCRIPT_NAME"] = params["DOCUMENT_URI"] = path
    params["REQUEST_URI"] = f"{path}?{query}" if query else path
    params["SERVER_NAME"] = params["HTTP_HOST"] = host
    params["REMOTE_ADDR"] = f"192.0.2.{at_random.randrange(256)}"
    params["REMOTE_PORT"] = str(at_random.randrange(1024, 65536))
    params["HTTP_COOKIE"] = f"session={at_random.getrandbits(128):032x}; theme=dark"
    if at_random.random() < 0.2:
        params = {name: value for name, value in params.items() if "HTTP_" not in name}
        params["HTTP_HOST"] = host
        params["HTTP_USER_AGENT"] = f"curl/8.{at_random.randrange(10)}.0"
        params["HTTP_ACCEPT"] = "*/*"
        return params
    params["HTTP_USER_AGENT"] = at_random.choice((_FIREFOX, _CHROME, _SAFARI))
    params["HTTP_ACCEPT_LANGUAGE"] = at_random.choice(_LANGUAGES)
    if at_random.random() < 0.3:
        del params["HTTP_COOKIE"]
    if at_random.random() < 0.5:
        del params["HTTP_CACHE_CONTROL"]
        params["HTTP_REFERER"] = f"https://{host}/shop/"
    return params


def _requests(kind: str) -> list[bytes]:
    """All requests of two rounds."""
    if kind != MIXED:
        return [_request(PARAMS)]
    at_random = random.Random(1)
    return [_request(_mixed(at_random)) for _ in range(2 * CONNECTIONS)]


def _ends(data: bytes) -> bool:
    """Whether the last record is an FCGI_END_REQUEST, and an answer came ahead of it."""
    return len(data) > 24 and data[-16:-14] == b"\x01\x03" and b"Hello, world!" in data


class Load:
    """Kept connections to one server, and the line to it on which it is held.

    Args:
        path: where it listens.
        line: our end of that line.
        pid: see below.
        requests: what is sent, in turn.

    Attributes:
        pid: the server's, or that of what it is wrapped in.
        answer: what came for the first request; every other answer has to be the same.
    """

    def __init__(
        self, path: str, line: socket.socket, pid: int, requests: Sequence[bytes]
    ) -> None:
        self._line = line
        self._requests = itertools.cycle(requests)
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
                connection.sendall(next(self._requests))
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
            load = Load(path, ours, process.pid, _requests(kind))
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
