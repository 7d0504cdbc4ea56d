"""The same site three times, as a Starlette app, a Flask app and a native handler.

Each has these paths:

``/echo/…``
    what the app sees, as JSON.
``/reply/NAME``
    one of :data:`REPLIES`.
``/raise``, ``/raise-late``
    an error before the response, and in the midst of one that announced more.
``/download``
    :func:`pattern`, ``size`` bytes of it; with ``pieces`` without a Content-Length.
``/upload``
    length and hash of the body, as JSON.
``/events?key=K``
    an event stream: the first event, and after ``/release?key=K`` the second; with ``cut``
    an error in its place.
``/wait?key=K``, ``/endless?key=K``, ``/slurp?key=K``
    never answers; never stops to; reads the body. ``/outcome?key=K`` tells once how it ended,
    ``/begun?key=K`` returns when it is under way.
"""

import hashlib
from collections.abc import Iterator

__all__ = ["CUT_ANNOUNCED", "CUT_SENT", "REPLIES", "pattern", "pattern_pieces", "summary"]

Headers = list[tuple[str, str]]

PIECE = 1 << 16

REPLIES: dict[str, tuple[int, Headers, bytes]] = {
    "plain": (200, [("content-type", "text/plain"), ("content-length", "6")], b"plain\n"),
    "missing": (404, [("content-type", "text/plain"), ("content-length", "8")], b"missing\n"),
    "teapot": (418, [("content-type", "text/plain"), ("content-length", "7")], b"teapot\n"),
    "created": (201, [("location", "/made/1"), ("content-length", "5")], b"made\n"),
    "moved": (307, [("location", "/elsewhere?x=1"), ("content-length", "0")], b""),
    "cookies": (
        200,
        [
            ("set-cookie", "one=1; Path=/"),
            ("set-cookie", "two=2; Path=/"),
            ("content-length", "8"),
        ],
        b"cookies\n",
    ),
    "empty": (204, [], b""),
    "unchanged": (304, [("etag", '"v1"')], b""),
    "broad": (
        200,
        [(f"x-broad-{number}", "b" * 100) for number in range(30)] + [("content-length", "6")],
        b"broad\n",
    ),
}

CUT_SENT = 10
CUT_ANNOUNCED = 1000


def pattern_pieces(size: int) -> Iterator[bytes]:
    """Bytes that tell where they belong, in pieces."""
    whole = b"".join(number.to_bytes(4, "big") for number in range(PIECE // 4))
    for _ in range(size // PIECE):
        yield whole
    if size % PIECE:
        yield whole[: size % PIECE]


def pattern(size: int) -> bytes:
    """The same, whole."""
    return b"".join(pattern_pieces(size))


def summary(body: bytes) -> str:
    """What two ends compare instead of long bodies."""
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}"
