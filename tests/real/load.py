"""Clients that ask without a pause, and remember everything that was not answered well."""

import http.client
import threading
from collections import Counter
from types import TracebackType
from typing import Self

from tests.real.http_client import HOST, Origin

__all__ = ["Load"]


class Load:
    """Requests on several kept client connections at once, for as long as the block lasts.

    Args:
        origin: the site.
        clients: how many ask at once.
        posts: whether every second request is a POST, which no front end tries again.
        path: what is asked for.

    Attributes:
        bodies: how often each body came with status 200.
        failures: how often anything else happened, in words.
    """

    def __init__(
        self, origin: Origin, *, clients: int = 6, posts: bool = True, path: str = "/"
    ) -> None:
        self.bodies: Counter[bytes] = Counter()
        self.failures: Counter[str] = Counter()
        self._origin = origin
        self._path = origin.prefix + path
        self._methods = ("GET", "POST") if posts else ("GET", "GET")
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._ask, name=f"client {number}")
            for number in range(clients)
        ]

    @property
    def answered(self) -> int:
        """How many requests were answered with 200 so far."""
        with self._lock:
            return self.bodies.total()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_answered(self, count: int, patience: float = 30.0) -> None:
        """Return once so many more were answered, or after ``patience`` seconds fail."""
        pause = threading.Event()
        goal = self.answered + count
        for _ in range(int(patience / 0.02)):
            if self.answered >= goal:
                return
            pause.wait(0.02)
        raise AssertionError(f"{goal - self.answered} answers are missing; {self.failures}")

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._origin.port, timeout=20)
        headers = {"Host": f"{HOST}:{self._origin.port}"}
        turn = 0
        body = b""
        while not self._over.is_set():
            turn += 1
            method = self._methods[turn % 2]
            headers = {"Host": f"{HOST}:{self._origin.port}"}
            try:
                connection.request(
                    method, self._path, b"x" * 100 if method == "POST" else None, headers
                )
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                outcome = f"{method}: {error!r}"
                connection.close()
            else:
                outcome = "" if response.status == 200 else f"{method}: status {response.status}"
            with self._lock:
                if outcome:
                    self.failures[outcome] += 1
                else:
                    self.bodies[body] += 1
        connection.close()
