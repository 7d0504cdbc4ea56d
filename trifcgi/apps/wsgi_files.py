"""``wsgi.file_wrapper`` (PEP 3333)."""

from collections.abc import Callable, Iterator
from typing import Protocol

__all__ = ["FileWrapper"]


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
