"""One request to a WSGI app, as the thread that answers it is given it. Compiled."""

import logging
from typing import Any, Final

from trifcgi.apps.crew import Crew, Job
from trifcgi.apps.request_gone import RequestGone
from trifcgi.apps.wsgi_conversation import Conversation
from trifcgi.apps.wsgi_files import FileWrapper
from trifcgi.apps.wsgi_response import Response
from trifcgi.apps.wsgi_streams import ErrorLog, Input
from trifcgi.cgi.meaning import BadParams, Meaning
from trifcgi.request import Taskless
from trifcgi.served import Served

__all__ = ["Call", "Direct"]

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
        owner: who waits for it.

    Attributes:
        environ: the app's, without what :meth:`complete` adds; ``None`` once the app has it.

    Raises:
        BadParams: the params make no request.
    """

    __slots__ = (
        "_app",
        "_conversation",
        "_crew",
        "_method",
        "_path",
        "_returned",
        "_scheme",
        "environ",
    )

    def __init__(self, app: Any, request: Any, mount: str | None, owner: Any) -> None:
        reading = request.reading if isinstance(request, Served) else None
        meaning = Meaning(reading or request.block or request.pairs, mount=mount)
        super().__init__(owner)
        self._app = app
        environ: dict[str, Any] = meaning.wsgi_environ()
        self.environ: dict[str, Any] | None = environ
        self._scheme = meaning.scheme
        # Not looked up in the environ later: that is the app's to change.
        self._method = meaning.method
        self._path = meaning.script_name, meaning.path_info
        self._conversation: Conversation | None = None
        self._crew: Crew | None = None
        self._returned = False

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
            self._returned = True

    def finished(self) -> None:
        conversation = self._conversation
        assert conversation is not None
        if conversation.seat is self and self.error is None and conversation.answer():
            conversation.leave()  # the app may have left a thread behind that goes on writing
        else:
            conversation.finished()

    # Without a task

    def begin(self, crew: Crew, request: Any) -> bool:
        """Have a thread make the call, of a request without a body, while no task waits for it.

        Returns:
            Whether it will be made.
        """
        conversation = self.complete(crew, request, self, b"", True)
        try:
            crew.put(self, True)
        except RuntimeError:
            conversation.leave()
            return False
        self._crew = crew
        request.aside = self
        return True

    def wake(self) -> None:
        """There is more to do than to send an answer, unless all that is to come has come."""
        conversation = self._conversation
        assert conversation is not None
        if not self._returned or conversation.done:
            conversation.seat = None
            conversation.request.want_task()

    def have_task(self, task: Any, seat: Any) -> Conversation:
        """From now on a task waits."""
        conversation = self._conversation
        assert conversation is not None
        self._crew = None
        self.owner = task
        conversation.request.aside = None
        conversation.seat = seat
        return conversation

    def leave(self) -> None:
        """The request is over."""
        conversation = self._conversation
        crew = self._crew
        assert conversation is not None
        assert crew is not None
        conversation.leave()
        crew.abandon(self)
        if self.over and self.error is not None:
            logger.warning("%s failed before it was given up", self, exc_info=self.error)


class Direct:
    """Begins calls while no task waits for them: what is whole when the app returns needs none.

    Args:
        handler: in whose place it does so; its app is called, in its pool's threads.
        mount: see :func:`trifcgi.wsgi`.
    """

    __slots__ = ("_mount", "handler")

    def __init__(self, handler: Any, mount: str | None) -> None:
        self.handler = handler
        self._mount = mount

    def begin(self, request: Any) -> bool:
        """Take a request, if that can be done at once."""
        crew: Crew | None = self.handler.pool.crew
        if crew is None:
            return False
        try:
            call = Call(self.handler.app, request, self._mount, request)
        except BadParams:
            return False
        return call.begin(crew, request)

    def begun(self) -> None:
        """All that came together have been taken."""
        crew: Crew | None = self.handler.pool.crew
        if crew is not None:
            crew.call_waiting()


Taskless.register(Direct)
