"""What a request's task and the thread that runs its app say to each other.

The task owns every trio stream; the thread only leaves bytes here and asks for them. An
answer that is ready when the app returns costs one wake-up of the event loop. Compiled; what the
task waits for stands in :mod:`trifcgi.apps.wsgi`.
"""

import threading
from typing import Any, Final

import trio

from trifcgi.apps.crew import Crew
from trifcgi.apps.request_gone import RequestGone

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
        seat: what is woken when there is news: where the task waits.

    Attributes:
        told: whether the app has been told that its request is over.
        done: whether the thread has nothing more to say.
        news: whether the task has something to look at.
        seat: see above.
    """

    __slots__ = (
        "_body",
        "_bodyless",
        "_changed",
        "_crew",
        "_given",
        "_head",
        "_left",
        "_lock",
        "_over",
        "_rung",
        "_size",
        "done",
        "news",
        "request",
        "seat",
        "told",
    )

    def __init__(self, crew: Crew, request: Any, seat: Any) -> None:
        self.request = request
        self.told = False
        self._crew = crew
        # An answer that was whole when the app returned, as most are. Nothing guards it: the
        # task looks for it only once the thread is done.
        self._head: bytes | None = None
        self._body = b""
        self._bodyless = False
        # Everything else, and what guards it; made by a thread that has something.
        self._lock: Any = None
        self._left: Left | None = None
        # What a thread waits on; made by the first that has to.
        self._changed: threading.Condition | None = None
        self._size = 0
        self._given: bytes | None = None
        # Whether the task has been woken and has not looked yet.
        self._rung = False
        # Whether the thread is to stop: its output goes nowhere, its input has ended.
        self._over = False
        # The task's side.
        self.seat: Any = seat
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
        if head is not None and self._left is None:
            self.check()
            self._head = head
            self._body = data
            self._bodyless = bodyless
            return
        with self._guard():
            self.check()
            self._leave(data, head, bodyless)

    def send(self, data: bytes, head: bytes | None, bodyless: bool) -> None:
        """Leave response bytes for the task at once; wait while too many lie there.

        Args:
            data: body bytes.
            head: the response head, with the first of them.
            bodyless: the head belongs to a response without a body.
        """
        with self._guard():
            self.check()
            self._leave(data, head, bodyless)
            self._ring()
            self._wait_for_room()

    def _guard(self) -> Any:
        """The lock. Whoever makes it looks only then whether the request is over, and the task
        looks the other way round: one of them sees the other.
        """
        if self._lock is None:
            self._lock = threading.Lock()
        return self._lock

    def _lie(self) -> Left:
        """With the lock held: where to leave things."""
        left = self._left
        if left is None:
            left = self._left = Left()
        return left

    def _leave(self, data: bytes, head: bytes | None, bodyless: bool) -> None:
        left = self._lie()
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
        with self._guard():
            self.check()
            left = self._lie()
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
        with self._guard():
            self.check()
            self._lie().asked = True
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
        if self.seat is not None:
            self.seat.wake()

    def finished(self) -> None:
        """The thread has nothing more to say."""
        self.done = True
        self.wake()

    def answer(self) -> bool:
        """Send an answer that lies here whole, where no task waits for it.

        Returns:
            Whether that is all there is to do.
        """
        head = self._whole_head()
        if head is None or self.request.aborted:
            return False
        done: bool = self.request.answer(head, self._body, self._bodyless)
        return done

    def respond(self) -> bool:
        """Send an answer that lies here whole, if that can be done at once.

        Returns:
            Whether nothing is left to do.
        """
        head = self._whole_head()
        if head is None:
            return False
        try:
            done: bool = self.request.respond(head, self._body, bodyless=self._bodyless)
        except trio.BrokenResourceError:
            return True  # the front end has gone meanwhile
        return done

    def _whole_head(self) -> bytes | None:
        """The head, where nothing has to be sent but that and one piece of body."""
        left = self._left
        if left is None:
            return self._head
        if left.head is None or len(left.stdout) > 1 or left.stderr is not None or left.asked:
            return None
        self._left = None
        self._head = left.head
        self._bodyless = left.bodyless
        if left.stdout:
            self._body = left.stdout[0]
        return self._head

    def take(self) -> Left:
        """Take what lies here."""
        with self._guard():
            self.news = False
            self._rung = False
            left = self._lie()
            self._left = None
            if self._head is not None:
                left.head = self._head
                left.bodyless = self._bodyless
                if self._body:
                    left.stdout.append(self._body)
                self._head = None
            if self._size > _WINDOW:
                self._notify()
            self._size = 0
            return left

    def give(self, data: bytes) -> None:
        """Give the thread the input that it asked for."""
        with self._guard():
            self._given = data
            self._notify()

    def give_up(self) -> None:
        """Stop the thread: whatever it does with this request from here on raises, and what
        it has left is dropped.
        """
        self._over = True
        self._head = None
        self._body = b""
        if self._lock is not None:
            with self._lock:
                self._left = None
                self._notify()

    def leave(self) -> None:
        """The task goes, whatever the thread does: the same as :meth:`give_up`, and for good."""
        self.seat = None  # which serves another request by and by
        self.give_up()
