"""What a request's task and the thread that runs its app say to each other.

The task owns every trio stream; the thread only leaves bytes here and asks for them. An
answer that is ready when the app returns costs one wake-up of the event loop.
"""

import threading
from typing import Final

import trio

from trifcgi.apps.threads import Crew
from trifcgi.errors import Error
from trifcgi.request import Request

__all__ = ["Conversation", "RequestGone"]

# Output that a thread may leave before it waits. The task may be sending as much again.
_WINDOW: Final = 128 * 1024

# Pieces are joined into one when they are not more than this together: copying costs less
# than the records do.
_JOIN: Final = 64 * 1024


class RequestGone(Error, ConnectionAbortedError):
    """The request is over while its WSGI app still runs: the front end has aborted it or is
    gone, or the server gave it up. Reading ``wsgi.input``, ``write()`` and
    ``start_response()`` raise it. An ``OSError`` (ECONNABORTED), as apps expect of a
    broken connection.
    """


class Conversation:
    """One request's, between its task and a thread.

    Args:
        crew: the threads' way to wake the event loop.
        request: whose streams the task uses.

    Attributes:
        told: whether the app has been told that its request is over.
    """

    __slots__ = (
        "_asked",
        "_bodyless",
        "_changed",
        "_crew",
        "_finished",
        "_given",
        "_head",
        "_lock",
        "_news",
        "_over",
        "_rung",
        "_size",
        "_stderr",
        "_stdout",
        "_task",
        "request",
        "told",
    )

    def __init__(self, crew: Crew, request: Request) -> None:
        self.request = request
        self.told = False
        self._crew = crew
        self._lock = threading.Lock()
        # What a thread waits on; made by the first that has to, which most never do.
        self._changed: threading.Condition | None = None
        # The thread's side: what it leaves, and whether it waits.
        self._head: bytes | None = None
        self._bodyless = False
        self._stdout: list[bytes] = []
        self._stderr: list[bytes] = []
        self._size = 0
        self._asked = False
        self._given: bytes | None = None
        # Whether the task has been woken and has not looked yet.
        self._rung = False
        # Whether the thread is to stop: its output goes nowhere, its input has ended.
        self._over = False
        # The task's side.
        self._task: trio.lowlevel.Task | None = None
        self._news = False
        self._finished = False

    # The thread's side

    def check(self) -> None:
        """Raise :class:`RequestGone` once nobody waits for the app's answer any more."""
        if self._over or self.request.aborted:
            self.told = True
            raise RequestGone("the front end has gone, or the server has given this request up")

    def send(
        self,
        data: bytes,
        *,
        head: bytes | None = None,
        bodyless: bool = False,
        last: bool = False,
    ) -> None:
        """Leave response bytes for the task; wait while too many lie there.

        Args:
            data: body bytes.
            head: the response head, with the first of them.
            bodyless: the head belongs to a response without a body.
            last: the thread is about to finish: the task need not be woken twice.
        """
        with self._lock:
            self.check()
            if head is not None:
                self._head = head
                self._bodyless = bodyless
            if data:
                self._stdout.append(data)
            self._size += len(data)
            if not last:
                self._ring()
                self._wait_for_room()

    def log(self, data: bytes, *, wake: bool) -> None:
        """Leave bytes for the front end's error log.

        Args:
            data: text, encoded.
            wake: whether the task has to send it now and not with what comes next.
        """
        with self._lock:
            self.check()
            self._stderr.append(data)
            self._size += len(data)
            if wake:
                self._ring()
                self._wait_for_room()

    def receive(self) -> bytes:
        """Wait for the next piece of the request body; ``b""`` after the last.

        Raises:
            RequestGone: there will be none.
        """
        with self._lock:
            self.check()
            self._asked = True
            self._ring()
            while self._given is None:
                self._wait()
            given, self._given = self._given, None
            return given

    def _wait_for_room(self) -> None:
        while self._size > _WINDOW:
            self._wait()

    def _wait(self) -> None:
        """With the lock held: let it go until the task has changed something."""
        if self._changed is None:
            self._changed = threading.Condition(self._lock)
        self._changed.wait()
        self.check()

    def _notify(self) -> None:
        """With the lock held: let threads that wait have a look."""
        if self._changed is not None:
            self._changed.notify_all()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._crew.post(self._wake)

    # The task's side

    async def serve(self) -> None:
        """Send what the thread leaves and give it what it asks for, until it is done.

        Returns only after :meth:`finished`. A cancel leaves at once; :meth:`give_up` is then
        up to the caller.
        """
        while True:
            if not (self._news or self._finished):
                await self._park()
            self._news = False
            finished = self._finished
            await self._transfer()
            if finished:
                return

    def finished(self) -> None:
        """The thread has nothing more to say."""
        self._finished = True
        self._wake()

    def give_up(self) -> None:
        """Stop the thread: whatever it does with this request from here on raises, and what
        it has left is dropped.
        """
        with self._lock:
            self._over = True
            self._stdout.clear()
            self._stderr.clear()
            self._notify()

    def _wake(self) -> None:
        self._news = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def _park(self) -> None:
        self._task = trio.lowlevel.current_task()

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _transfer(self) -> None:
        """Take what lies here and send it; then fetch what was asked for."""
        with self._lock:
            self._rung = False
            head, self._head = self._head, None
            stdout, self._stdout = self._stdout, []
            stderr, self._stderr = self._stderr, []
            if self._size > _WINDOW:
                self._notify()
            self._size = 0
            asked, self._asked = self._asked, False
        try:
            if head is not None:
                self.request.stdout.send_head(head, bodyless=self._bodyless)
            if stdout:
                await self._send(stdout)
            if stderr:
                await self.request.stderr.send_all(b"".join(stderr))
            if asked:
                self._give(bytes(await self.request.stdin.receive_some()))
        except trio.BrokenResourceError:
            # The front end is gone and the server lets the app finish (a grace): it learns of
            # that at its next move.
            self.give_up()

    async def _send(self, pieces: list[bytes]) -> None:
        send_all = self.request.stdout.send_all
        if len(pieces) == 1:
            await send_all(pieces[0])
        elif sum(map(len, pieces)) <= _JOIN:
            await send_all(b"".join(pieces))
        else:
            for piece in pieces:
                await send_all(piece)

    def _give(self, data: bytes) -> None:
        with self._lock:
            self._given = data
            self._notify()
