"""What the load of ``scripts/bench`` sends and understands, held to trifcgi's own codec."""

import pytest

from scripts.benchmark.aborts import has_ended
from scripts.benchmark.system_calls import read_summary
from scripts.benchmark.wire import (
    PARAMS,
    fastcgi_request,
    http_request,
    read_fastcgi,
    read_http,
)
from trifcgi.protocol import (
    Connection,
    ParamsReceived,
    RequestBegun,
    Side,
    StdinEnded,
    StdinReceived,
)

HEAD = b"Status: 404 Not Found\r\nContent-Type: text/plain\r\n\r\n"


def answer(request_id: int, body: bytes, app_status: int = 0) -> bytes:
    connection = Connection(Side.APPLICATION)
    connection.receive_data(fastcgi_request(request_id))
    connection.send_stdout(request_id, HEAD)
    connection.send_stdout(request_id, body)
    connection.end_request(request_id, app_status)
    return b"".join(connection.data_to_send())


@pytest.mark.parametrize("keep", [True, False])
def test_a_get_is_what_nginx_would_send(keep: bool) -> None:
    events = Connection(Side.APPLICATION).receive_data(
        fastcgi_request(7, keep=keep, params={"SCRIPT_FILENAME": "/srv/x" * 40})
    )
    begun, params, ended = events
    assert isinstance(begun, RequestBegun)
    assert (begun.request_id, begun.keep_connection) == (7, keep)
    assert isinstance(params, ParamsReceived)
    expected = PARAMS | {"SCRIPT_FILENAME": "/srv/x" * 40}
    assert params.pairs == [(key.encode(), value.encode()) for key, value in expected.items()]
    assert isinstance(ended, StdinEnded)


def test_a_post_has_its_body() -> None:
    body = bytes(range(256)) * 400
    events = Connection(Side.APPLICATION).receive_data(fastcgi_request(body=body))
    pieces = [event.data for event in events if isinstance(event, StdinReceived)]
    assert b"".join(pieces) == body
    (params,) = (event for event in events if isinstance(event, ParamsReceived))
    assert (b"CONTENT_LENGTH", b"102400") in params.pairs
    assert (b"REQUEST_METHOD", b"POST") in params.pairs


def test_an_answer_is_read_once_it_is_whole() -> None:
    data = answer(3, b"x" * 100_000)
    for cut in (0, 7, 20, 70_000, len(data) - 1):
        assert read_fastcgi(data[:cut]) is None
    read = read_fastcgi(data + b"the next")
    assert read is not None
    assert (read.length, read.status, read.request_id) == (len(data), 404, 3)
    assert read.body == b"x" * 100_000


@pytest.mark.parametrize(
    "data",
    [
        answer(1, b"x", app_status=1),
        b"\2" + answer(1, b"x")[1:],
        answer(1, b"x")[:16] + answer(2, b"x"),
    ],
    ids=["failed", "version", "mixed"],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"failed request|not the records"):
        read_fastcgi(data)


def test_http_is_read_once_it_is_whole() -> None:
    data = b"HTTP/1.1 200 OK\r\nDate: now\r\ncontent-length: 5\r\n\r\nhello"
    for cut in (0, 30, len(data) - 1):
        assert read_http(data[:cut]) is None
    read = read_http(data)
    assert read is not None
    assert (read.length, read.status, read.body) == (len(data), 200, b"hello")
    with pytest.raises(ValueError, match="length"):
        read_http(b"HTTP/1.1 200 OK\r\n\r\n")


def test_http_requests_say_what_params_say() -> None:
    assert http_request().startswith(b"GET /shop/articles/4711 HTTP/1.1\r\nHost: shop.example\r\n")
    assert b"Connection: close\r\n" in http_request(keep=False)
    assert http_request(body=b"abc").endswith(b"Content-Length: 3\r\n\r\nabc")


def test_the_end_of_a_request_is_seen_when_it_is_whole() -> None:
    data = answer(1, b"x")
    assert has_ended(data)
    assert not any(has_ended(data[:cut]) for cut in range(len(data)))


def test_a_summary_of_strace_is_read() -> None:
    table = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 50.00    0.000200           2       100           sendto
 30.00    0.000120           1       101         3 recvfrom
 20.00    0.000080          80         1           epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.000400           1       202         3 total
"""
    assert read_summary(table) == {"sendto": 100, "recvfrom": 101, "epoll_wait": 1}
