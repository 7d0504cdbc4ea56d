"""The load: a fixed number of connections, each with a fixed number of requests at a time.

``python -m benchmark.load JSON`` runs one round, as :class:`Round` says, and prints a line of
JSON. It is a process of its own, so that it can have a core of its own.

An answer is understood in full when the round begins, and has to be the expected one. Those that
follow have to be the same bytes; where they are not (a date has changed) they are understood in
full again. That keeps the load far cheaper than what it measures, with nothing unchecked.
"""

import json
import select
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from .apps import bodies, hello
from .processes import cpu_seconds
from .wire import (
    END_REQUEST,
    Answer,
    fastcgi_request,
    http_request,
    read_fastcgi,
    read_http,
    record,
)

__all__ = ["UPLOAD", "Result", "Round", "connect", "run"]

UPLOAD = 1 << 20
_SILENCE = 10.0  # seconds without an answer after which a server has failed
_CHUNK = 256 * 1024
_END = record(END_REQUEST, 1, bytes(8))


@dataclass(frozen=True)
class Round:
    """What to do.

    Attributes:
        protocol: ``fastcgi`` or ``http``.
        address: ``unix:PATH`` or ``HOST:PORT``.
        kind: ``kept``, ``short`` (a connection for each request), ``multiplexed``, ``upload``
            or ``download``.
        connections: how many at once.
        streams: requests at a time on each, if multiplexed.
        seconds: for how long, once each connection was answered.
        params: params that FastCGI requests have besides nginx's own.
        server: the server's processes.
    """

    protocol: str
    address: str
    kind: str
    connections: int
    streams: int = 1
    seconds: float = 1.0
    params: Mapping[str, str] = field(default_factory=dict)
    server: Sequence[int] = ()


@dataclass(frozen=True)
class Result:
    """What came of it.

    Attributes:
        answers: whole ones.
        seconds: that it took.
        used: seconds of processor time that the server has used in them.
        reconnects: connections that the server closed though it was asked to keep them.
        busy: part of the time in which the load had its core; close to 1, it was the load
            that was measured.
    """

    answers: int
    seconds: float
    used: float
    reconnects: int
    busy: float


def connect(address: str) -> socket.socket:
    """A connection that does not block."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        target: str | tuple[str, int] = address.removeprefix("unix:")
    else:
        connection = socket.socket(socket.AF_INET)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, _, port = address.rpartition(":")
        target = (host, int(port))
    deadline = time.monotonic() + _SILENCE
    connection.settimeout(_SILENCE)
    while True:
        try:
            connection.connect(target)
        except BlockingIOError:  # a Unix socket's full backlog
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            connection.setblocking(False)
            return connection


class Load:
    """Connections under way, one request at a time on each, and what came back."""

    expected_body = hello.BODY

    def __init__(self, order: Round) -> None:
        self.order = order
        self.request = self.make_request()
        self.known = b""
        self.answers = 0
        self.reconnects = 0
        self.epoll = select.epoll()
        self.connections: dict[int, socket.socket] = {}
        self.held: dict[int, bytes] = {}

    def make_request(self) -> bytes:
        """The request that is sent again and again."""
        if self.order.protocol == "fastcgi":
            return fastcgi_request(params=self.order.params)
        return http_request()

    def read(self, data: bytes) -> Answer | None:
        """Understand an answer, and hold it to what is expected; None while it is not whole."""
        read = read_fastcgi if self.order.protocol == "fastcgi" else read_http
        answer = read(data)
        if answer and (answer.status != 200 or answer.body != self.expected_body):
            raise ValueError(f"not the expected answer: {data[:1000]!r}")
        return answer

    def open(self) -> None:
        """Make a connection and send its first request."""
        connection = connect(self.order.address)
        fd = connection.fileno()
        self.connections[fd] = connection
        self.epoll.register(fd, select.EPOLLIN)
        self.begin(fd)

    def begin(self, fd: int) -> None:
        """Send a request. It is smaller than any socket buffer that the last one has left."""
        try:
            sent = self.connections[fd].send(self.request)
        except (BrokenPipeError, ConnectionResetError):
            self.reopen(fd)
            return
        if sent != len(self.request):
            raise BlockingIOError("a request did not fit into the socket's buffer")

    def close(self, fd: int) -> None:
        """Forget a connection."""
        self.epoll.unregister(fd)
        self.connections.pop(fd).close()
        self.held.pop(fd, None)

    def reopen(self, fd: int) -> None:
        """Go on with another connection: the server did not keep this one."""
        if self.held.get(fd):
            raise ValueError(f"an answer was cut: {self.held[fd]!r}")
        self.close(fd)
        self.reconnects += 1
        self.open()

    def receive(self, fd: int) -> bytes | None:
        """What has come; None for nothing, or if the connection had to be replaced."""
        try:
            data = self.connections[fd].recv(65536)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data = b""
        if not data:
            self.reopen(fd)
            return None
        return data

    def ready(self, fd: int, events: int) -> None:
        """The connection can be read."""
        data = self.receive(fd)
        if data is not None and (data == self.known or self.understand(fd, data)):
            self.answers += 1
            self.begin(fd)

    def understand(self, fd: int, data: bytes) -> bool:
        """Whether an answer that is not like the last one is whole now."""
        data = self.held.pop(fd, b"") + data
        answer = self.read(data)
        if answer is None:
            self.held[fd] = data
            return False
        if answer.length != len(data):
            raise ValueError(f"more than an answer: {data[answer.length :]!r}")
        self.known = data
        return True

    def run(self) -> Result:
        """Keep the connections busy for so long, and until there is an answer.

        What it takes the server to accept them is not measured: all are answered before that.

        Raises:
            TimeoutError: for 10 seconds there is no answer.
            ValueError: one is not what is expected.
        """
        for _ in range(self.order.connections):
            self.open()
        self.go_on(0.0, self.order.connections)
        self.answers = self.reconnects = 0
        own, used = time.process_time(), cpu_seconds(self.order.server)
        seconds = self.go_on(self.order.seconds, 1)
        own, used = time.process_time() - own, cpu_seconds(self.order.server) - used
        for fd in list(self.connections):
            self.close(fd)
        self.epoll.close()
        return Result(self.answers, seconds, used, self.reconnects, own / seconds)

    def go_on(self, seconds: float, answers: int) -> float:
        """Go on for so long at the least, and until there are so many answers.

        Returns:
            How long it was.
        """
        started = last_answer = now = time.perf_counter()
        end = started + seconds
        while now < end or self.answers < answers:
            before = self.answers
            for fd, events in self.epoll.poll(0.5):
                if fd in self.connections:
                    self.ready(fd, events)
            now = time.perf_counter()
            if self.answers != before:
                last_answer = now
            elif now - last_answer > _SILENCE:
                raise TimeoutError(f"no answer for {_SILENCE:g} s")
        return now - started


class Short(Load):
    """A connection for each request, closed as a front end closes it: when it has its answer."""

    def make_request(self) -> bytes:
        if self.order.protocol == "fastcgi":
            return fastcgi_request(keep=False, params=self.order.params)
        return http_request(keep=False)

    def ready(self, fd: int, events: int) -> None:
        data = self.receive(fd)
        if data is not None and (data == self.known or self.understand(fd, data)):
            self.answers += 1
            self.close(fd)
            self.open()


class Multiplexed(Load):
    """Several requests at a time on each connection."""

    def __init__(self, order: Round) -> None:
        super().__init__(order)
        self.requests = {
            number: fastcgi_request(number, params=order.params)
            for number in range(1, order.streams + 1)
        }
        self.request = b"".join(self.requests.values())
        self.next: dict[bytes, bytes] = {}  # by an answer, the request that follows it
        self.length = 1 << 30  # of each answer

    def ready(self, fd: int, events: int) -> None:
        data = self.receive(fd)
        if data is None:
            return
        if fd in self.held:
            data = self.held.pop(fd) + data
        at = 0
        requests = []
        while at < len(data):
            answer = data[at : at + self.length]
            request = self.next.get(answer)
            if request is None:
                understood = self.read(answer)
                if understood is None:
                    self.held[fd] = answer
                    break
                answer = answer[: understood.length]
                self.length = understood.length
                self.next[answer] = request = self.requests[understood.request_id]
            at += len(answer)
            requests.append(request)
        self.answers += len(requests)
        batch = b"".join(requests)
        if self.connections[fd].send(batch) != len(batch):
            raise BlockingIOError("requests did not fit into the socket's buffer")


class Upload(Load):
    """A big body in each request."""

    expected_body = b"%d" % UPLOAD

    def __init__(self, order: Round) -> None:
        super().__init__(order)
        self.unsent: dict[int, memoryview] = {}

    def make_request(self) -> bytes:
        body = bytes(UPLOAD)
        if self.order.protocol == "fastcgi":
            return fastcgi_request(body=body, params=self.order.params)
        return http_request(body=body)

    def begin(self, fd: int) -> None:
        self.unsent[fd] = memoryview(self.request)
        self.send_on(fd)

    def send_on(self, fd: int) -> None:
        """Send as much as goes."""
        rest = self.unsent[fd]
        try:
            while rest:
                rest = rest[self.connections[fd].send(rest[:_CHUNK]) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self.reopen(fd)
            return
        self.unsent[fd] = rest
        self.epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if rest else 0))

    def ready(self, fd: int, events: int) -> None:
        if events & select.EPOLLOUT:
            self.send_on(fd)
        if events & ~select.EPOLLOUT and fd in self.connections:
            super().ready(fd, events)


class Download(Load):
    """A big body in each answer: the first is compared, of the others the bytes are counted."""

    expected_body = bodies.CHUNK * bodies.CHUNKS

    def __init__(self, order: Round) -> None:
        super().__init__(order)
        self.buffer = bytearray(_CHUNK)
        self.counts: dict[int, int] = {}
        self.tails: dict[int, bytes] = {}
        self.length = self.check_one()

    def check_one(self) -> int:
        """Take one answer as a whole, and return its length."""
        with connect(self.order.address) as connection:
            connection.settimeout(_SILENCE)
            connection.sendall(self.request)
            data = bytearray()
            # Each attempt to understand copies everything: not before it can succeed.
            while len(data) < len(self.expected_body) or not self.read(bytes(data)):
                piece = connection.recv(_CHUNK)
                if not piece:
                    raise ValueError(f"an answer was cut after {len(data)} bytes")
                data += piece
        return len(data)

    def begin(self, fd: int) -> None:
        self.counts[fd] = 0
        self.tails[fd] = b""
        super().begin(fd)

    def ready(self, fd: int, events: int) -> None:
        try:
            count = self.connections[fd].recv_into(self.buffer)
        except BlockingIOError:
            return
        if not count:
            if self.counts[fd]:
                raise ValueError(f"an answer was cut after {self.counts[fd]} bytes")
            self.reopen(fd)
            return
        self.counts[fd] += count
        if self.order.protocol == "http":
            whole = self.counts[fd] >= self.length
        else:
            # Records may be cut differently each time, so the end has to be seen. Nothing
            # follows it: there is one request at a time.
            tail = bytes(memoryview(self.buffer)[max(0, count - len(_END)) : count])
            self.tails[fd] = tail = (self.tails[fd] + tail)[-len(_END) :]
            whole = tail == _END and self.counts[fd] > len(self.expected_body)
        if whole:
            self.answers += 1
            self.begin(fd)


KINDS = {
    "kept": Load,
    "short": Short,
    "multiplexed": Multiplexed,
    "upload": Upload,
    "download": Download,
}


def run(order: Round) -> Result:
    """Run a round in this process."""
    return KINDS[order.kind](order).run()


if __name__ == "__main__":
    print(json.dumps(asdict(run(Round(**json.loads(sys.argv[1]))))))
