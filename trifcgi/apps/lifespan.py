"""The ASGI lifespan protocol (2.0), around the requests of one server."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from trifcgi.errors import AppLoadError, ResponseError
from trifcgi.failure import divide, in_words

__all__ = ["SHUTDOWN_TIMEOUT", "run_lifespan"]

SHUTDOWN_TIMEOUT: Final = 10.0
"""Seconds that an application has to shut down before it is cancelled."""

# An application that has said its last message usually returns or raises the cause next
# (Starlette does); one that does not is cancelled after so many seconds.
_RETURN_GRACE: Final = 1.0

logger = logging.getLogger(__name__)


@asynccontextmanager
async def run_lifespan(
    app: Callable[..., Awaitable[None]],
    state: dict[str, Any],
    *,
    shutdown_timeout: float = SHUTDOWN_TIMEOUT,
) -> AsyncIterator[None]:
    """Hold an application's lifespan open.

    The block runs once the application has said ``lifespan.startup.complete``, or has shown
    that it has no lifespan: by returning or raising before it said so, upon which the ASGI
    lifespan specification wants the server to go on. That is logged at level debug when the
    application refused the scope outright, and as a warning when it had taken the startup
    message, since then it is most likely a mistake in its startup. What is no ``Exception``,
    ``SystemExit`` say, is another matter: no application that has no lifespan raises that, so
    its startup has failed.

    The application runs in a task of its own, out of reach of a cancel from outside, since
    its shutdown has to happen then too. Leaving the block, cancelled or not, asks for
    the shutdown and waits for it; after ``shutdown_timeout`` seconds the application is
    cancelled. A cancel during startup cancels the application. No task is left behind.

    An application whose lifespan ends with an error while requests are served, with
    ``SystemExit`` or the like too, is logged and goes on being served: what its requests lack
    they will say themselves, and ending every request because of one background task is not
    for the server to decide.

    Args:
        app: the ASGI application.
        state: becomes ``scope["state"]``; the application fills it.
        shutdown_timeout: seconds.

    Raises:
        AppLoadError: the application said ``lifespan.startup.failed``, or raised what is no
            ``Exception`` in its startup. What it raised is the cause.
        BaseExceptionGroup: with a ``KeyboardInterrupt`` in it, which came in the application.
    """
    protocol = _Protocol(app, state)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(protocol.run, name=f"lifespan of {app!r}")
        try:
            await protocol.started.wait()
            if protocol.failed:
                await protocol.give_up()
            else:
                yield
        except Exception as error:  # noqa: BLE001 - raised again below
            # Carried out of the nursery, which would wrap it in a group: whoever wrote the
            # block opened no nursery and expects none.
            failure = error
        finally:
            if protocol.started.is_set() and not protocol.failed:
                with trio.move_on_after(shutdown_timeout, shield=True):
                    await protocol.shut_down()
                protocol.report_slow_shutdown(shutdown_timeout)
            protocol.scope.cancel(reason="the lifespan is over")
    if protocol.failed:
        raise protocol.load_error() from protocol.error
    if failure is not None:
        raise failure


class _Protocol:
    """What the application and the server have told each other so far.

    Attributes:
        scope: around the application's task; shielded.
        started: startup is over, one way or the other.
        failed: the application said ``lifespan.startup.failed``, or ended its startup with what
            is no ``Exception``.
        error: what the application raised.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._messages_given = 0
        self._startup_complete = False
        self._stopping = trio.Event()
        self._stopped = trio.Event()
        self._done = trio.Event()
        self._failure = ""
        self.scope = trio.CancelScope(shield=True)
        self.started = trio.Event()
        self.failed = False
        self.error: BaseException | None = None

    async def run(self) -> None:
        """The task: the application with its lifespan scope."""
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self._state,
        }
        passing: BaseException | None = None
        try:
            with self.scope:
                await self._app(scope, self._receive, self._send)
        except BaseException as error:  # noqa: BLE001, ASYNC103 - what passes through is raised
            self.error, passing = divide(error)
        self._stopped.set()
        self._done.set()
        if passing is not None:
            if self.error is not None:
                logger.error("the app's lifespan ended with an error, too", exc_info=self.error)
            # Not started: the nursery cancels whoever still waits for that, and nothing is served.
            raise passing
        self.failed = self.failed or self._startup_was_ended()
        self._report_end()
        self.started.set()

    def _startup_was_ended(self) -> bool:
        """Whether the application ended before its startup was over, and not for want of one."""
        if self.started.is_set() or self.scope.cancel_called:
            return False
        return self.error is not None and not isinstance(self.error, Exception)

    def _report_end(self) -> None:
        """Log an end that was not asked for, or that was not clean."""
        error = self.error
        if self.failed:
            return
        if self.scope.cancel_called:
            if error is not None:
                logger.error("the app's lifespan raised when it was cancelled", exc_info=error)
        elif self._startup_complete:
            self._report_late_end(error)
        elif error is None:
            logger.debug("the app returned without a lifespan: it has none")
        elif not self._messages_given:
            logger.debug("the app refused the lifespan scope: it has none", exc_info=error)
        else:
            logger.warning(
                "the app raised during its lifespan startup; serving without lifespan",
                exc_info=error,
            )

    def _report_late_end(self, error: BaseException | None) -> None:
        if error is not None:
            when = "while shutting down" if self._stopping.is_set() else "while serving"
            # The message of lifespan.shutdown.failed is the same error's text (Starlette).
            logger.error("the app's lifespan ended with an error %s", when, exc_info=error)
        elif self._failure:
            logger.error("the app's shutdown failed: %s", self._failure)
        elif not self._stopping.is_set():
            logger.debug("the app's lifespan ended before it was asked to shut down")

    async def _receive(self) -> dict[str, Any]:
        if self._messages_given == 0:
            self._messages_given = 1
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        if self._messages_given == 2:
            # There is no third message: whoever asks for it waits until it is cancelled.
            await trio.sleep_forever()
        self._messages_given = 2
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: dict[str, Any]) -> None:
        # No checkpoint in here: an application that is being cancelled still gets to say so.
        kind = message.get("type")
        if kind in {"lifespan.startup.complete", "lifespan.startup.failed"}:
            if self._startup_complete or self.failed:
                raise ResponseError(f"{kind!r} came when the startup was over already")
            if kind == "lifespan.startup.complete":
                self._startup_complete = True
            else:
                self.failed = True
                self._failure = str(message.get("message", ""))
            self.started.set()
        elif kind in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
            if not self._startup_complete or self._stopped.is_set():
                raise ResponseError(f"{kind!r} came out of order")
            if kind == "lifespan.shutdown.failed":
                self._failure = str(message.get("message", "")) or "without a reason"
            self._stopped.set()
        else:
            raise ResponseError(
                f"send() got a message of type {kind!r}; in its lifespan an app sends"
                " 'lifespan.startup.complete' or '.failed' and 'lifespan.shutdown.complete'"
                " or '.failed'"
            )

    async def give_up(self) -> None:
        """Let an application whose startup failed raise its reason."""
        with trio.move_on_after(_RETURN_GRACE):
            await self._done.wait()

    async def shut_down(self) -> None:
        """Ask for the shutdown, and wait for it and, a moment, for the application's return."""
        self._stopping.set()
        await self._stopped.wait()
        with trio.move_on_after(_RETURN_GRACE):
            await self._done.wait()

    def report_slow_shutdown(self, seconds: float) -> None:
        """Log a shutdown that was waited for in vain."""
        if not self._stopped.is_set():
            logger.warning("the app's shutdown took more than %g s; it is cancelled", seconds)

    def load_error(self) -> AppLoadError:
        """The failed startup, in one sentence where the cause is known, and otherwise in
        the application's own words: Starlette's are a whole traceback.
        """
        reason = self._failure or "it gave no reason"
        if self.error is not None:
            reason = in_words(self.error)
        return AppLoadError(f"the app's startup failed: {reason}")
