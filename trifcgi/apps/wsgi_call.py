"""One request to a WSGI app, as the thread that answers it is given it. Compiled."""

import logging
from typing import Any, Final

from trifcgi.apps.crew import Crew, Job
from trifcgi.apps.request_gone import RequestGone
from trifcgi.apps.wsgi_conversation import Conversation
from trifcgi.apps.wsgi_files import FileWrapper
from trifcgi.apps.wsgi_response import Response
from trifcgi.apps.wsgi_streams import ErrorLog, Input
from trifcgi.cgi.meaning import Meaning

__all__ = ["Call"]

logger = logging.getLogger(__name__)

# What all environs have alike.
_ALIKE: Final[dict[str, Any]] = {
    "wsgi.version": (1, 0),
    "wsgi.input_terminated": True,
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    "wsgi.file_wrapper": FileWrapper,
}


class Call(Job):
    """One call of the app.

    Args:
        app: the application.
        request: whose call it is.
        mount: see :func:`trifcgi.wsgi`.
        task: who waits for it.

    Attributes:
        environ: the app's, without what :meth:`complete` adds; ``None`` once the app has it.

    Raises:
        BadParams: the params make no request.
    """

    __slots__ = ("_app", "_conversation", "_method", "_path", "_scheme", "environ")

    def __init__(self, app: Any, request: Any, mount: str | None, task: Any) -> None:
        meaning = Meaning(request.block or request.pairs, mount=mount, wsgi=True)
        super().__init__(task)
        self._app = app
        environ: dict[str, Any] = meaning.wsgi_environ()
        self.environ: dict[str, Any] | None = environ
        self._scheme = meaning.scheme
        # Not looked up in the environ later: that is the app's to change.
        self._method = meaning.method
        self._path = meaning.script_name, meaning.path_info
        self._conversation: Conversation | None = None

    def __str__(self) -> str:
        script_name, path_info = self._path
        path = (script_name + path_info).decode("latin-1")
        return f"{self._method} {path}"

    def complete(
        self, crew: Crew, request: Any, seat: Any, start: bytes, whole: bool
    ) -> Conversation:
        """Add the ``wsgi.`` keys.

        Args:
            crew: the threads.
            request: the request.
            seat: see :class:`~trifcgi.apps.wsgi_conversation.Conversation`.
            start: the first bytes of the body.
            whole: whether they are all of it.
        """
        conversation = Conversation(crew, request, seat)
        environ = self.environ
        assert environ is not None
        environ.update(_ALIKE)
        environ["wsgi.url_scheme"] = self._scheme
        environ["wsgi.input"] = Input(conversation, start, whole)
        environ["wsgi.errors"] = ErrorLog(conversation)
        environ["trifcgi.stopping"] = request.stop_signal.for_threads
        self._conversation = conversation
        return conversation

    def work(self) -> None:
        environ = self.environ
        conversation = self._conversation
        assert environ is not None
        assert conversation is not None
        self.environ = None  # which refers to this
        errors: ErrorLog = environ["wsgi.errors"]
        try:
            Response(conversation, self._method).run(self._app, environ)
        except Exception as error:
            if not conversation.told:
                raise
            # Its own fault or a framework's word for RequestGone: nobody is left to answer,
            # yet a mistake made in clean-up must not be lost.
            if not isinstance(error, RequestGone):
                logger.info("%s: the app gave up as its request was over: %r", self, error)
        finally:
            errors.finish()

    def finished(self) -> None:
        conversation = self._conversation
        assert conversation is not None
        conversation.finished()
