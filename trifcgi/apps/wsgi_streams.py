"""What a WSGI environ carries besides text: ``wsgi.input``, ``wsgi.errors`` and
``wsgi.file_wrapper`` (PEP 3333).
"""

import io
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer

    from trifcgi.apps.wsgi_conversation import Conversation

__all__ = ["ErrorLog", "FileWrapper", "Input"]

logger = logging.getLogger(__name__)

# The longest unfinished line that ``wsgi.errors`` holds back.
_LONGEST_LINE: Final = 8 * 1024


class Input(io.BufferedIOBase):
    """``wsgi.input``: the request body, fetched as the app reads it.

    Never more of it in memory than the app asks for and one piece besides. At the end of
    the body reads return ``b""``, also without CONTENT_LENGTH (``wsgi.input_terminated``).
    A body that was broken off never looks like a short one: reading raises.

    Args:
        conversation: where the body comes from.
        start: its first bytes.
        whole: whether they are all of it.
    """

    def __init__(self, conversation: "Conversation", start: bytes, whole: bool) -> None:
        self._conversation = conversation
        self._piece = start
        self._at = 0
        self._whole = whole

    def readable(self) -> bool:
        return True

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

    def _check(self) -> None:
        if self.closed:
            raise ValueError("wsgi.input is closed")
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
        parts = []
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
        parts = []
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
        lines = []
        size = 0
        while line := self.readline():
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def write(self, buffer: "ReadableBuffer", /) -> int:
        """Refused: a request body is read."""
        raise io.UnsupportedOperation("write")


class ErrorLog:
    """``wsgi.errors``: text for the front end's error log (FCGI_STDERR, §5.3).

    Whole lines leave at once, the rest with a flush or the end. What is written after the
    request has ended goes to the server's own log, so that an app may report late.
    """

    __slots__ = ("_conversation", "_line")

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, conversation: "Conversation") -> None:
        self._conversation = conversation
        self._line = ""

    def write(self, text: str, /) -> int:
        """Add text; returns its length in characters."""
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        line = self._line + text
        end = len(line) if len(line) > _LONGEST_LINE else line.rfind("\n") + 1
        self._line = line[end:]
        if end:
            self._send(line[:end], wake=True)
        return len(text)

    def writelines(self, lines: Iterable[str], /) -> None:
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
            self._conversation.log(text.encode(self.encoding, self.errors), wake=wake)
        except OSError:
            logger.warning("wsgi.errors, after its request was over: %s", text.rstrip("\n"))


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FileWrapper:
    """``wsgi.file_wrapper``: an iterable over the rest of a file-like object.

    The server reads it in large blocks whatever the block size says, no further than the
    declared ``Content-Length``, and closes it when the response is over.

    Args:
        filelike: anything with ``read(size)``; its ``close()``, if there is one, is called
            with the wrapper's.
        block_size: bytes a block, when somebody else iterates.
    """

    def __init__(self, filelike: _Readable, block_size: int = 8192) -> None:
        self.filelike = filelike
        self.block_size = block_size
        close: Callable[[], object] | None = getattr(filelike, "close", None)
        if close is not None:
            # An attribute, for PEP 3333 wants a close() only where the file has one.
            self.close = close

    def __iter__(self) -> Iterator[bytes]:
        while block := self.filelike.read(self.block_size):
            yield block
