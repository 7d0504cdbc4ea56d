"""``wsgi.input`` and ``wsgi.errors`` (PEP 3333). Compiled."""

import io
import logging
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from trifcgi.apps.wsgi_conversation import Conversation

__all__ = ["ErrorLog", "Input"]

logger = logging.getLogger(__name__)

# The longest unfinished line that ``wsgi.errors`` holds back.
_LONGEST_LINE: Final = 8 * 1024


class Input:
    """``wsgi.input``: the request body, fetched as the app reads it.

    An :class:`io.BufferedIOBase` in all but descent, which costs more to make and to end than
    most requests have use for. Never more of it in memory than the app asks for and one piece
    besides. At the end of the body reads return ``b""``, also without CONTENT_LENGTH
    (``wsgi.input_terminated``). A body that was broken off never looks like a short one:
    reading raises.

    Args:
        conversation: where the body comes from.
        start: its first bytes.
        whole: whether they are all of it.
    """

    __slots__ = ("_at", "_conversation", "_piece", "_whole", "closed")

    def __init__(self, conversation: Conversation, start: bytes, whole: bool) -> None:
        self._conversation = conversation
        self._piece = start
        self._at = 0
        self._whole = whole
        self.closed = False

    def _next_piece(self) -> bool:
        """Replace a used-up piece; false at the end of the body."""
        if self._whole:
            return False
        self._piece = self._conversation.receive()
        self._at = 0
        self._whole = not self._piece
        return not self._whole

    def _take(self, size: int) -> bytes:
        at = self._at
        piece = self._piece
        if at == 0 and size >= len(piece):
            self._piece = b""
            return piece
        self._at = at + size
        return piece[at : at + size]

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("wsgi.input is closed")

    def _check(self) -> None:
        self._check_open()
        self._conversation.check()

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end of the body; without a size, the rest.

        Raises:
            RequestGone: the request is over, or its body will never be whole.
        """
        self._check()
        if size is None or size < 0:
            return self._read_rest()
        if size <= len(self._piece) - self._at:
            return self._take(size)
        parts: list[bytes] = []
        while size > 0:
            if self._at >= len(self._piece) and not self._next_piece():
                break
            part = self._take(size)
            size -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_rest(self) -> bytes:
        parts = [self._take(len(self._piece))]
        while self._next_piece():
            parts.append(self._take(len(self._piece)))
        return b"".join(parts)

    def read1(self, size: int | None = -1, /) -> bytes:
        """Return what is here, at most ``size`` bytes; wait only when nothing is."""
        self._check()
        if size == 0 or (self._at >= len(self._piece) and not self._next_piece()):
            return b""
        return self._take(len(self._piece) if size is None or size < 0 else size)

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the next line with its end, at most ``size`` bytes of it."""
        self._check()
        left = -1 if size is None else size
        parts: list[bytes] = []
        while left != 0:
            if self._at >= len(self._piece) and not self._next_piece():
                break
            found = self._piece.find(b"\n", self._at) + 1
            length = (found or len(self._piece)) - self._at
            if 0 <= left < length:
                length = left
                found = 0
            parts.append(self._take(length))
            if found:
                break
            left -= length if left > 0 else 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        """Return the lines that are left, or as many as make up ``hint`` bytes."""
        lines: list[bytes] = []
        size = 0
        while line := self.readline():
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer; returns how many bytes, fewer than fit only at the end."""
        return self._fill(buffer, False)

    def readinto1(self, buffer: Any, /) -> int:
        """Read into a buffer what is here; wait only when nothing is."""
        return self._fill(buffer, True)

    def _fill(self, buffer: Any, once: bool) -> int:
        view: Any = memoryview(buffer).cast("B")
        data = self.read1(len(view)) if once else self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def __iter__(self) -> "Input":
        self._check_open()
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    # The rest of what files have

    def readable(self) -> bool:
        self._check_open()
        return True

    def writable(self) -> bool:
        self._check_open()
        return False

    def seekable(self) -> bool:
        self._check_open()
        return False

    def isatty(self) -> bool:
        self._check_open()
        return False

    def close(self) -> None:
        """Refuse to be read from here on."""
        self.closed = True

    def flush(self) -> None:
        self._check_open()

    def __enter__(self) -> "Input":
        self._check_open()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def detach(self) -> Any:
        raise io.UnsupportedOperation("detach")

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def seek(self, offset: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation("seek")

    def tell(self) -> int:
        raise io.UnsupportedOperation("tell")

    def truncate(self, size: int | None = None, /) -> int:
        raise io.UnsupportedOperation("truncate")

    def write(self, buffer: Any, /) -> int:
        """Refused: a request body is read."""
        raise io.UnsupportedOperation("write")

    def writelines(self, lines: Any, /) -> None:
        raise io.UnsupportedOperation("write")


io.BufferedIOBase.register(Input)


class ErrorLog:
    """``wsgi.errors``: text for the front end's error log (FCGI_STDERR, §5.3).

    Whole lines leave at once, the rest with a flush or the end. What is written after the
    request has ended goes to the server's own log, so that an app may report late.
    """

    __slots__ = ("_conversation", "_line")

    encoding: ClassVar[str] = "utf-8"
    errors: ClassVar[str] = "backslashreplace"

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._line = ""

    def write(self, text: Any, /) -> int:
        """Add text; returns its length in characters."""
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        line: str = self._line + text
        end = len(line) if len(line) > _LONGEST_LINE else line.rfind("\n") + 1
        self._line = line[end:]
        if end:
            self._send(line[:end], wake=True)
        return len(text)

    def writelines(self, lines: Iterable[Any], /) -> None:
        """Add each text in turn."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send a line that is not ended."""
        if self._line:
            line, self._line = self._line, ""
            self._send(line, wake=True)

    def finish(self) -> None:
        """Send what is left along with the end of the response."""
        if self._line:
            line, self._line = self._line, ""
            self._send(line, wake=False)

    def _send(self, text: str, *, wake: bool) -> None:
        try:
            self._conversation.log(text.encode("utf-8", "backslashreplace"), wake=wake)
        except OSError:
            logger.warning("wsgi.errors, after its request was over: %s", text.rstrip("\n"))
