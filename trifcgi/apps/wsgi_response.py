"""One call of a WSGI app, in its thread: PEP 3333 between ``app()`` and ``close()``.

Compiled. What comes from the app is ``Any`` here, since compiled code insists on what is declared,
and the sentence about what is wrong with it is to be ours.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from trifcgi.apps.wsgi_conversation import Conversation
from trifcgi.apps.wsgi_files import FileWrapper
from trifcgi.cgi.head import is_bodyless
from trifcgi.cgi.text_head import encode_text_head
from trifcgi.errors import ResponseError

__all__ = ["Response", "WSGIApp"]

# Environs hold whatever middleware puts there; apps are as often typed by wsgiref.types as
# not at all.
WSGIApp: TypeAlias = Callable[[dict[str, Any], Any], Iterable[bytes]]

logger = logging.getLogger(__name__)

# What is read from a file in one go. Larger blocks were not faster.
_FILE_BLOCK: Final = 128 * 1024


class Response:
    """What one app answers to one request.

    Holds the head back until the first body byte (PEP 3333 demands it, and front ends like
    both in one record), and never sends more than the declared ``Content-Length``.

    Args:
        conversation: where the bytes go.
        method: the request's; HEAD is answered without a body.
    """

    __slots__ = (
        "_begun",
        "_bodyless",
        "_conversation",
        "_declared",
        "_excess",
        "_head",
        "_method",
        "_sent",
    )

    def __init__(self, conversation: Conversation, method: str) -> None:
        self._conversation = conversation
        self._method = method
        self._head: bytes | None = None
        self._declared: int | None = None
        self._bodyless = False
        self._begun = False
        self._excess = False
        self._sent = 0

    # What the app calls

    def start_response(
        self,
        status: Any,
        response_headers: Any,
        exc_info: Any = None,
    ) -> Any:
        """PEP 3333's. The head is checked here, so that the app can still answer otherwise.

        Raises:
            RequestGone: the request is over.
            ResponseError: a head that cannot be sent, or a second one without ``exc_info``.
            BaseException: the one in ``exc_info``, when the head has been sent already.
        """
        if exc_info is not None:
            try:
                if self._begun:
                    if exc_info[1] is None:
                        raise ResponseError("the response head has been sent already")
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # a traceback that refers to this frame would keep it alive
        elif self._head is not None:
            raise ResponseError("start_response() was called a second time without exc_info")
        self._conversation.check()
        head = encode_text_head(status, response_headers)
        self._declared = head.content_length
        self._bodyless = is_bodyless(self._method, head.status)
        self._head = head.head
        return self.write

    def write(self, data: Any, /) -> None:
        """The ``write()`` callable: sends at once, waits while too much is unsent.

        Raises:
            RequestGone: the request is over.
        """
        self._send(data)

    # The server's part

    def run(self, app: WSGIApp, environ: dict[str, Any]) -> None:
        """Call the app, send what it gives and close what it returned, in every outcome.

        Raises:
            RequestGone: the request was over before all was sent.
            ResponseError: no head, or fewer bytes than declared.
            Exception: whatever the app raised.
        """
        result: Any = app(environ, self.start_response)
        try:
            self._send_all(result)
        except BaseException:
            self._close_quietly(result)
            raise
        kind = type(result)
        if kind is not list and kind is not tuple:  # for those, looking costs more than it seems
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def _close_quietly(self, result: Any) -> None:
        """Close after a failure: a second one must not hide the first."""
        close = getattr(result, "close", None)
        if close is not None:
            try:
                close()
            except Exception:
                logger.exception("close() of a WSGI response failed after another failure")

    def _send_all(self, result: Any) -> None:
        # Exact types: what a subclass iterates over need not be what it holds.
        kind = type(result)
        if kind is list or kind is tuple:
            self._send_whole(result)
        elif kind is FileWrapper:
            self._send_file(result)
        else:
            self._send_pieces(result)
        if not self._begun:
            self._begin(b"", 0)
        if not self._bodyless:
            self._refuse_short(self._sent)

    def _send_whole(self, pieces: Any) -> None:
        """All of the body is here: its length is known, and one wake-up sends it."""
        data: bytes = b"".join(pieces)  # a single piece is not copied
        if self._declared is not None and not self._begun and not self._bodyless:
            self._refuse_short(len(data))  # while it can still become a 500
        self._send(data, len(data), True)
        if not self._begun:
            self._begin(b"", 0, True)

    def _refuse_short(self, length: int) -> None:
        if self._declared is not None and length < self._declared:
            raise ResponseError(
                f"the app declared a Content-Length of {self._declared} and gave {length} bytes"
            )

    def _send_pieces(self, result: Any) -> None:
        try:
            only = len(result) == 1  # asked for by PEP 3333
        except TypeError:
            only = False
        for piece in result:
            self._send(piece, len(piece) if only else None)
            if self._excess or (self._begun and self._bodyless):
                # Nothing more of it would leave, and it may have no end.
                break

    def _send_file(self, wrapper: Any) -> None:
        if self._head is None or self._bodyless:
            return
        read = wrapper.filelike.read
        while True:
            size = max(_FILE_BLOCK, wrapper.block_size)
            if self._declared is not None:
                size = min(size, self._declared - self._sent)
            block = read(size) if size else b""
            if not block:
                return
            self._send(block)

    def _send(self, data: Any, length: int | None = None, last: bool = False) -> None:
        """Send body bytes, with the head ahead of the first.

        Args:
            data: empty ones do not force the head out.
            length: the body's whole length, where it is known now.
            last: the app is done when these are sent.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"a WSGI response is made of bytes, not {type(data).__name__}")
        if not data:
            return
        if self._bodyless:
            if not self._begun:
                self._begin(b"", length, last)
            return
        if self._declared is not None and len(data) > self._declared - self._sent:
            logger.warning(
                "the app gives more than its Content-Length of %d bytes; the rest is dropped",
                self._declared,
            )
            self._excess = True
            data = data[: self._declared - self._sent]
        self._sent += len(data)
        if not self._begun:
            self._begin(data, length, last)
        elif data:
            self._leave(data, None, last)

    def _leave(self, data: bytes, head: bytes | None, last: bool) -> None:
        if last:
            self._conversation.send_last(data, head, self._bodyless)
        else:
            self._conversation.send(data, head, self._bodyless)

    def _begin(self, data: bytes, length: int | None, last: bool = False) -> None:
        head = self._head
        if head is None:
            raise ResponseError("the app gave a response without calling start_response()")
        if length is not None and self._declared is None and not self._bodyless:
            head = b"Content-Length: %d\r\n%b" % (length, head)
        self._begun = True
        self._leave(data, head, last)
