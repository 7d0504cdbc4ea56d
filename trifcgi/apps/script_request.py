"""A request whose URL is cut behind its script's name, whatever the front end's cut."""

import trio

from trifcgi.request import Request, RequestStream, ResponseStream, StopSignal

__all__ = ["ScriptRequest"]


class ScriptRequest(Request):
    """Another request in all but SCRIPT_NAME and PATH_INFO.

    Args:
        request: the one that the server made.
        script_name: the URL path of the script, decoded.
        path_info: the rest of the path.
    """

    __slots__ = ("_request",)

    def __init__(self, request: Request, script_name: bytes, path_info: bytes) -> None:
        self._request = request
        self._params = None
        self._named = None
        self.id = request.id
        self.role = request.role
        self.keep_connection = request.keep_connection
        self.pairs = [
            *(pair for pair in request.pairs if pair[0] not in {b"SCRIPT_NAME", b"PATH_INFO"}),
            (b"SCRIPT_NAME", script_name),
            (b"PATH_INFO", path_info),
        ]

    def __repr__(self) -> str:
        return repr(self._request)

    @property
    def stdin(self) -> RequestStream:
        return self._request.stdin

    @property
    def data(self) -> RequestStream:
        return self._request.data

    @property
    def stdout(self) -> ResponseStream:
        return self._request.stdout

    @property
    def stderr(self) -> trio.abc.SendStream:
        return self._request.stderr

    @property
    def cancel_scope(self) -> trio.CancelScope:
        return self._request.cancel_scope

    @property
    def aborted(self) -> bool:
        return self._request.aborted

    async def wait_aborted(self) -> None:
        await self._request.wait_aborted()

    @property
    def stop_signal(self) -> StopSignal:
        return self._request.stop_signal
