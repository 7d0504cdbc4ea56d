"""What an instrument of the server's own has in place of a hook; compiled."""

from collections.abc import Mapping
from typing import Final

from trifcgi.cgi.reading import Reading
from trifcgi.observe.instrument import StopReason

__all__ = ["COMPLETE", "Recorder", "end_of"]

COMPLETE: Final = "complete"

_ENDS: Final[Mapping[StopReason, str]] = {
    reason: reason.value.replace(" ", "-") for reason in StopReason
}


def end_of(reason: StopReason | None, failed: bool, refused: bool) -> str:
    """Why a request ended, in a word."""
    if reason is not None:
        return _ENDS[reason]
    if refused:
        return "refused"
    return "failed" if failed else COMPLETE


class Recorder:
    """Is told how each request ended, without an object made to tell it.

    An instrument that has one as its ``recorder`` gets no ``request_ended`` from the server.
    """

    __slots__ = ()

    def record(
        self,
        block: bytes,
        params: Mapping[bytes, bytes],
        reading: Reading | None,
        role: int,
        status: int,
        body_bytes: int,
        bytes_in: int,
        duration: float,
        app_status: int,
        end: str,
    ) -> None:
        """A request is over.

        Args:
            block: its params as they came, known to be well-formed; or ``b""``.
            params: the same by name, where there is no block.
            reading: the block, read, if it is one that was known.
            role: its role.
            status: the HTTP status of the response; 0 where none was begun.
            body_bytes: bytes of response body.
            bytes_in: bytes of request body.
            duration: seconds.
            app_status: the FastCGI application status.
            end: see :func:`end_of`.
        """
