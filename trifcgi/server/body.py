"""What has arrived of one request stream (stdin or data) and has not been read."""

import contextlib
import tempfile
from collections import deque
from typing import IO, Final

__all__ = ["NO_BODY", "SPOOL_LIMIT", "WINDOW", "Body"]

WINDOW = 256 * 1024
"""Bytes of an unread body that are held in memory. A connection with one request on it is
not read on past the window: the front end then holds the rest."""

SPOOL_LIMIT = 64 * 1024 * 1024
"""Bytes of an unread body that go to a temporary file where the connection must be read on,
since other requests or an abort may stand behind the body."""

_SMALL = 16 * 1024
_JOINED = 128 * 1024


class Body:
    """A queue of bytes: in memory up to the caller's window, then in a temporary file.

    Not a stream: it never waits. ``ended`` is set once the peer has said that it sends no more;
    ``broken`` when some of what it has sent was thrown away: however it ends, it is not whole.
    ``received`` counts every byte that was fed; once ``closed`` nothing is kept.
    """

    __slots__ = (
        "_chunks",
        "_spool",
        "_spool_read",
        "_spool_written",
        "broken",
        "buffered",
        "closed",
        "ended",
        "received",
    )

    def __init__(self) -> None:
        # Made for the first bytes: most requests have no body.
        self._chunks: deque[bytes] | None = None
        self._spool: IO[bytes] | None = None
        self._spool_read = 0
        self._spool_written = 0
        self.buffered = 0
        self.received = 0
        self.ended = False
        self.broken = False
        self.closed = False

    @property
    def spooled(self) -> int:
        """Unread bytes in the temporary file."""
        return self._spool_written - self._spool_read

    def feed(self, data: bytes) -> None:
        """Append bytes as they came; kept whole, since most are read in one piece."""
        self.received += len(data)
        if self.closed:
            return
        if self._spool is not None:
            self._write(self._spool, data)
        else:
            self._append(data)

    def _append(self, data: bytes) -> None:
        if self._chunks is None:
            self._chunks = deque()
        self._chunks.append(data)
        self.buffered += len(data)

    def feed_spooling(self, data: bytes) -> None:
        """Append bytes; past the window they go to the temporary file, order kept.

        Raises:
            OSError: there is no room for the file.
        """
        if self._spool is None and not self.closed and self.buffered + len(data) > WINDOW:
            self._spool = tempfile.TemporaryFile(prefix="trifcgi-body-")  # noqa: SIM115
        self.feed(data)

    def _write(self, spool: IO[bytes], data: bytes) -> None:
        spool.seek(self._spool_written)
        spool.write(data)
        self._spool_written += len(data)

    def take(self, max_bytes: int | None) -> bytes:
        """Remove and return at most ``max_bytes`` from the front; ``b""`` if there are none."""
        if not self._chunks and self._spool is not None:
            self._refill(self._spool)
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks.popleft()
        if chunks and len(data) < _SMALL:
            data = self._join(data, chunks)
        if max_bytes is not None and len(data) > max_bytes:
            chunks.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self.buffered -= len(data)
        return data

    def _join(self, data: bytes, chunks: deque[bytes]) -> bytes:
        """Add the small pieces that follow: each one that a handler takes costs it a round,
        and a WSGI app in its thread two task switches.
        """
        pieces = [data]
        size = len(data)
        while chunks and size + len(chunks[0]) <= _JOINED:
            pieces.append(chunks.popleft())
            size += len(pieces[-1])
        return b"".join(pieces)

    def _refill(self, spool: IO[bytes]) -> None:
        spool.seek(self._spool_read)
        data = spool.read(WINDOW // 4)
        self._spool_read += len(data)
        if data:
            self._append(data)
        if self._spool_read == self._spool_written:
            self._drop_spool(spool)

    def __bool__(self) -> bool:
        """Whether there is something to take."""
        return bool(self._chunks) or self._spool is not None

    def close(self) -> None:
        """Forget what is unread, and keep nothing more."""
        self.closed = True
        if self.received:
            self.discard()

    def discard(self) -> None:
        """Forget what is unread and give its memory and file back."""
        if self._chunks:
            self._chunks.clear()
        self.buffered = 0
        if self._spool is not None:
            self._drop_spool(self._spool)

    def break_off(self) -> None:
        """Forget what is unread, of a body that is thrown away in the middle."""
        self.broken = True
        self.discard()

    def _drop_spool(self, spool: IO[bytes]) -> None:
        self._spool = None
        self._spool_read = self._spool_written = 0
        with contextlib.suppress(OSError):  # a full disk shows once more; nobody wants the rest
            spool.close()


def _no_body() -> Body:
    body = Body()
    body.ended = body.closed = True
    return body


NO_BODY: Final = _no_body()
"""That of all requests that have come whole without one: nothing is fed to it."""
