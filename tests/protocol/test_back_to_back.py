"""Two connections wired to each other agree with a plain model of what each side did."""

from collections import deque

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from trifcgi.protocol import (
    Connection,
    ConnectionEnded,
    DataEnded,
    DataReceived,
    Event,
    LocalProtocolError,
    ParamsReceived,
    ProtocolStatus,
    RequestAborted,
    RequestBegun,
    RequestEnded,
    Role,
    Side,
    StderrEnded,
    StderrReceived,
    StdinEnded,
    StdinReceived,
    StdoutEnded,
    StdoutReceived,
    ValuesReceived,
    ValuesRequested,
)

IDS = st.sampled_from([1, 2, 3, 300])
VALUES = {b"FCGI_MPXS_CONNS": b"1", b"FCGI_MAX_REQS": b"7"}
CONTENT = st.one_of(st.binary(max_size=9), st.sampled_from([b"k" * 20_000, b"K" * 140_000]))
PAIRS = st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=150)), max_size=4)


@attrs.define
class Stream:
    """Bytes of one stream: what was sent, what has come."""

    sent: bytes = b""
    ended: bool = False
    came: bytes = b""
    end_came: bool = False

    def receive(self, data: bytes) -> None:
        assert not self.end_came
        self.came += data
        assert self.sent.startswith(self.came)

    def receive_end(self) -> None:
        assert self.ended
        assert not self.end_came
        assert self.came == self.sent
        self.end_came = True


@attrs.define(eq=False)
class Exchange:
    """One request and its answer, as both sides together would describe it."""

    role: Role
    keep: bool
    pairs: list[tuple[bytes, bytes]] | None = None
    pairs_came: bool = False
    stdin: Stream = attrs.Factory(Stream)
    data: Stream = attrs.Factory(Stream)
    stdout: Stream = attrs.Factory(Stream)
    stderr: Stream = attrs.Factory(Stream)
    aborted: bool = False
    abort_came: bool = False
    status: tuple[int, int] | None = None  # given by the application

    def accepts_stdin(self) -> bool:
        has_one = self.role is not Role.AUTHORIZER
        return has_one and self.pairs is not None and not self.stdin.ended and not self.aborted

    def accepts_data(self) -> bool:
        is_filter = self.role is Role.FILTER
        return is_filter and self.stdin.ended and not self.data.ended and not self.aborted


class BackToBack(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.front_end = Connection(Side.FRONT_END)
        self.application = Connection(Side.APPLICATION, values=VALUES)
        self.to_application = bytearray()
        self.to_front_end = bytearray()
        # Exchanges that each side takes for active, and those whose beginning is on its way.
        self.asking: dict[int, Exchange] = {}
        self.answering: dict[int, Exchange] = {}
        self.beginning: deque[Exchange] = deque()
        self.asked: deque[list[bytes]] = deque()
        self.answered: deque[list[bytes]] = deque()

    # The front end

    @rule(request_id=IDS, role=st.sampled_from(Role), keep=st.booleans())
    def begin(self, request_id: int, role: Role, keep: bool) -> None:
        if request_id in self.asking:
            with pytest.raises(LocalProtocolError):
                self.front_end.begin_request(request_id, role, keep)
            return
        self.front_end.begin_request(request_id, role, keep)
        self.asking[request_id] = Exchange(role, keep)
        self.beginning.append(self.asking[request_id])

    @rule(request_id=IDS, pairs=PAIRS)
    def send_params(self, request_id: int, pairs: list[tuple[bytes, bytes]]) -> None:
        exchange = self.asking.get(request_id)
        if exchange is None or exchange.pairs is not None or exchange.aborted:
            with pytest.raises(LocalProtocolError):
                self.front_end.send_params(request_id, pairs)
            return
        self.front_end.send_params(request_id, pairs)
        exchange.pairs = pairs

    @rule(request_id=IDS, data=CONTENT, end=st.booleans())
    def send_stdin(self, request_id: int, data: bytes, end: bool) -> None:
        exchange = self.asking.get(request_id)
        if exchange is None or not exchange.accepts_stdin():
            with pytest.raises(LocalProtocolError):
                self.front_end.send_stdin(request_id, data or b"x")
            with pytest.raises(LocalProtocolError):
                self.front_end.end_stdin(request_id)
            return
        self.front_end.send_stdin(request_id, data)
        exchange.stdin.sent += data
        if end:
            self.front_end.end_stdin(request_id)
            exchange.stdin.ended = True

    @rule(request_id=IDS, data=CONTENT, end=st.booleans())
    def send_data(self, request_id: int, data: bytes, end: bool) -> None:
        exchange = self.asking.get(request_id)
        if exchange is None or not exchange.accepts_data():
            with pytest.raises(LocalProtocolError):
                self.front_end.send_data(request_id, data or b"x")
            with pytest.raises(LocalProtocolError):
                self.front_end.end_data(request_id)
            return
        self.front_end.send_data(request_id, data)
        exchange.data.sent += data
        if end:
            self.front_end.end_data(request_id)
            exchange.data.ended = True

    @rule(request_id=IDS)
    def abort(self, request_id: int) -> None:
        exchange = self.asking.get(request_id)
        if exchange is None or exchange.aborted:
            with pytest.raises(LocalProtocolError):
                self.front_end.abort_request(request_id)
            return
        self.front_end.abort_request(request_id)
        exchange.aborted = True

    @rule(names=st.lists(st.sampled_from([*VALUES, b"FCGI_MAX_CONNS"]), max_size=3))
    def get_values(self, names: list[bytes]) -> None:
        self.front_end.get_values(names)
        self.asked.append(names)

    # The application

    @rule(request_id=IDS, data=CONTENT, end=st.booleans())
    def send_stdout(self, request_id: int, data: bytes, end: bool) -> None:
        exchange = self.answering.get(request_id)
        if exchange is None or exchange.stdout.ended:
            with pytest.raises(LocalProtocolError):
                self.application.send_stdout(request_id, data or b"x")
            with pytest.raises(LocalProtocolError):
                self.application.end_stdout(request_id)
            return
        self.application.send_stdout(request_id, data)
        exchange.stdout.sent += data
        if end:
            self.application.end_stdout(request_id)
            exchange.stdout.ended = True

    @rule(request_id=IDS, data=CONTENT)
    def send_stderr(self, request_id: int, data: bytes) -> None:
        exchange = self.answering.get(request_id)
        if exchange is None:
            with pytest.raises(LocalProtocolError):
                self.application.send_stderr(request_id, data)
            return
        self.application.send_stderr(request_id, data)
        exchange.stderr.sent += data

    @rule(
        request_id=IDS,
        app_status=st.sampled_from([0, 0, 1, 2**32 - 1]),
        protocol_status=st.sampled_from(ProtocolStatus),
    )
    def end_request(self, request_id: int, app_status: int, protocol_status: int) -> None:
        exchange = self.answering.pop(request_id, None)
        if exchange is None:
            with pytest.raises(LocalProtocolError):
                self.application.end_request(request_id, app_status, protocol_status)
            return
        self.application.end_request(request_id, app_status, protocol_status)
        exchange.status = (app_status, protocol_status)
        exchange.stdout.ended = True
        exchange.stderr.ended = bool(exchange.stderr.sent)

    # The wire

    @precondition(lambda self: self.front_end.out_size or self.application.out_size)
    @rule()
    def write(self) -> None:
        self.to_application += b"".join(self.front_end.data_to_send())
        self.to_front_end += b"".join(self.application.data_to_send())

    @precondition(lambda self: self.to_application)
    @rule(size=st.one_of(st.integers(1, 40), st.integers(1, 200_000)))
    def application_reads(self, size: int) -> None:
        data = bytes(self.to_application[:size])
        del self.to_application[:size]
        for event in self.application.receive_data(data):
            self.application_event(event)

    @precondition(lambda self: self.to_front_end)
    @rule(size=st.one_of(st.integers(1, 40), st.integers(1, 200_000)))
    def front_end_reads(self, size: int) -> None:
        data = bytes(self.to_front_end[:size])
        del self.to_front_end[:size]
        for event in self.front_end.receive_data(data):
            self.front_end_event(event)

    def application_event(self, event: Event) -> None:
        match event:
            case ValuesRequested(names=names):
                assert names == self.asked.popleft()
                self.answered.append(names)
                return
            case RequestBegun():
                begun = self.beginning.popleft()
                assert event.request_id not in self.answering
                assert (event.role, event.keep_connection) == (begun.role, begun.keep)
                self.answering[event.request_id] = begun
                return
            case ConnectionEnded() | ValuesReceived():
                raise AssertionError(event)
        exchange = self.answering[event.request_id]  # type: ignore[union-attr]
        assert not exchange.abort_came
        match event:
            case ParamsReceived(pairs=pairs):
                assert not exchange.pairs_came
                assert pairs == exchange.pairs
                exchange.pairs_came = True
            case StdinReceived(data=data):
                assert exchange.pairs_came
                exchange.stdin.receive(data)
            case StdinEnded():
                exchange.stdin.receive_end()
            case DataReceived(data=data):
                assert exchange.stdin.end_came
                exchange.data.receive(data)
            case DataEnded():
                exchange.data.receive_end()
            case RequestAborted():
                assert exchange.aborted
                exchange.abort_came = True
            case _:
                raise AssertionError(event)

    def front_end_event(self, event: Event) -> None:
        if isinstance(event, ValuesReceived):
            names = self.answered.popleft()
            assert event.values == {name: VALUES[name] for name in names if name in VALUES}
            return
        exchange = self.asking[event.request_id]  # type: ignore[union-attr]
        match event:
            case StdoutReceived(data=data):
                exchange.stdout.receive(data)
            case StdoutEnded():
                exchange.stdout.receive_end()
            case StderrReceived(data=data):
                exchange.stderr.receive(data)
            case StderrEnded():
                exchange.stderr.receive_end()
            case RequestEnded():
                assert (event.app_status, event.protocol_status) == exchange.status
                assert exchange.stdout.end_came
                assert exchange.stderr.end_came == bool(exchange.stderr.sent)
                del self.asking[event.request_id]
            case _:
                raise AssertionError(event)

    # What always holds

    @invariant()
    def both_know_what_is_active(self) -> None:
        assert self.front_end.open_requests == len(self.asking)
        assert self.application.open_requests == len(self.answering)
        for request_id in (1, 2, 3, 300):
            assert self.front_end.is_active(request_id) == (request_id in self.asking)
            assert self.application.is_active(request_id) == (request_id in self.answering)

    def teardown(self) -> None:
        """Let everything arrive: what was sent for requests still active has come, whole."""
        self.write()
        self.application_reads(len(self.to_application))
        for exchange in self.answering.values():
            assert exchange.abort_came == exchange.aborted
            assert exchange.pairs_came == (exchange.pairs is not None)
            assert exchange.stdin.came == exchange.stdin.sent
            assert exchange.data.came == exchange.data.sent
        for request_id in list(self.answering):
            self.end_request(request_id, 0, 0)
        self.write()
        self.front_end_reads(len(self.to_front_end))
        assert not self.asking
        assert self.application.receive_eof() == [ConnectionEnded(truncated=False)]
        assert self.front_end.receive_eof() == [ConnectionEnded(truncated=False)]


def test_two_connections_agree_with_the_model() -> None:
    run_state_machine_as_test(
        BackToBack,
        settings=settings(
            deadline=None,
            derandomize=True,
            print_blob=True,
            max_examples=120,
            stateful_step_count=50,
        ),
    )
