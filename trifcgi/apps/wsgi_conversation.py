"""What a request's task and the thread that runs its app say to each other.

The task owns every trio stream; the thread only leaves bytes here and asks for them. An
answer that is ready when the app returns costs one wake-up of the event loop. Compiled; what the
task waits for stands in :mod:`trifcgi.apps.wsgi`.
"""

import threading
from typing import TYPE_CHECKING, Any, Final

import trio

from trifcgi.apps.crew import Crew
from trifcgi.apps.request_gone import RequestGone

if TYPE_CHECKING:
    from trifcgi.apps.thread_calls import Seat

__all__ = ["Conversation", "Left"]

# Output that a thread may leave before it waits. The task may be sending as much again.
_WINDOW: Final = 128 * 1024


class Left:
    """What a thread has left for the task.

    Attributes:
        head: the response head; ``None``: none yet, or sent before.
        bodyless: whether it belongs to a response without a body.
        stdout: body bytes.
        stderr: text for the front end's error log, encoded.
        asked: whether the thread waits for input.
    """

    __slots__ = ("asked", "bodyless", "head", "stderr", "stdout")

    def __init__(self) -> None:
        self.head: bytes | None = None
        self.bodyless = False
        self.stdout: list[bytes] = []
        self.stderr: list[bytes] | None = None
        self.asked = False


class Conversation:
    """One request's, between its task and a thread.

    Args:
        crew: the threads' way to wake the event loop.
        request: whose streams the task uses.
        seat: where the task waits.

    Attributes:
        told: whether the app has been told that its request is over.
        done: whether the thread has nothing more to say.
        news: whether the task has something to look at.
    """

    __slots__ = (
        "_changed",
        "_crew",
        "_given",
        "_left",
        "_lock",
        "_over",
        "_rung",
        "_seat",
        "_size",
        "done",
        "news",
        "request",
        "told",
    )

    def __init__(self, crew: Crew, request: Any, seat: "Seat") -> None:
        self.request = request
        self.told = False
        self._crew = crew
        self._lock = threading.Lock()
        # What a thread waits on; made by the first that has to, which most never do.
        self._changed: threading.Condition | None = None
        # The thread's side: what it leaves, and whether it waits.
        self._left = Left()
        self._size = 0
        self._given: bytes | None = None
        # Whether the task has been woken and has not looked yet.
        self._rung = False
        # Whether the thread is to stop: its output goes nowhere, its input has ended.
        self._over = False
        # The task's side.
        self._seat: Any = seat
        self.news = False
        self.done = False

    # The thread's side

    def check(self) -> None:
        """Raise :class:`RequestGone` once nobody waits for the app's answer any more."""
        if self._over or self.request.aborted:
            self.told = True
            raise RequestGone("the front end has gone, or the server has given this request up")

    def send_last(self, data: bytes, head: bytes | None, bodyless: bool) -> None:
        """Leave the last response bytes: the thread is about to finish, and that wakes the task.

        Args:
            data: body bytes.
            head: the response head, if it has not been left before.
            bodyless: the head belongs to a response without a body.
        """
        with self._lock:
            self.check()
            self._leave(data, head, bodyless)

    def send(self, data: bytes, head: bytes | None, bodyless: bool) -> None:
        """Leave response bytes for the task at once; wait while too many lie there.

        Args:
            data: body bytes.
            head: the response head, with the first of them.
            bodyless: the head belongs to a response without a body.
        """
        with self._lock:
            self.check()
            self._leave(data, head, bodyless)
            self._ring()
            self._wait_for_room()

    def _leave(self, data: bytes, head: bytes | None, bodyless: bool) -> None:
        left = self._left
        if head is not None:
            left.head = head
            left.bodyless = bodyless
        if data:
            left.stdout.append(data)
            self._size += len(data)

    def log(self, data: bytes, wake: bool) -> None:
        """Leave bytes for the front end's error log.

        Args:
            data: text, encoded.
            wake: whether the task has to send it now and not with what comes next.
        """
        with self._lock:
            self.check()
            left = self._left
            if left.stderr is None:
                left.stderr = []
            left.stderr.append(data)
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
            self._left.asked = True
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
        changed = self._changed
        if changed is None:
            changed = self._changed = threading.Condition(self._lock)
        changed.wait()
        self.check()

    def _notify(self) -> None:
        """With the lock held: let threads that wait have a look."""
        if self._changed is not None:
            self._changed.notify_all()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._crew.post(self.wake)

    # The task's side

    def wake(self) -> None:
        """Have the task look, in the event loop."""
        self.news = True
        if self._seat is not None:
            self._seat.wake()

    def finished(self) -> None:
        """The thread has nothing more to say."""
        self.done = True
        self.wake()

    def respond(self) -> bool:
        """Send an answer that lies here whole, if that can be done at once.

        Returns:
            Whether nothing is left to do.
        """
        left = self._left
        if left.head is None or len(left.stdout) > 1 or left.stderr is not None:
            return False
        body = left.stdout[0] if left.stdout else b""
        try:
            done: bool = self.request.respond(left.head, body, bodyless=left.bodyless)
        except trio.BrokenResourceError:
            return True  # the front end has gone meanwhile
        return done

    def take(self) -> Left:
        """Take what lies here."""
        with self._lock:
            self.news = False
            self._rung = False
            left, self._left = self._left, Left()
            if self._size > _WINDOW:
                self._notify()
            self._size = 0
            return left

    def give(self, data: bytes) -> None:
        """Give the thread the input that it asked for."""
        with self._lock:
            self._given = data
            self._notify()

    def give_up(self) -> None:
        """Stop the thread: whatever it does with this request from here on raises, and what
        it has left is dropped.
        """
        with self._lock:
            self._over = True
            left = self._left
            left.head = None
            left.stdout.clear()
            left.stderr = None
            self._notify()

    def leave(self) -> None:
        """The task goes, whatever the thread does: the same as :meth:`give_up`, and for good."""
        self._seat = None  # which serves another request by and by
        self.give_up()
