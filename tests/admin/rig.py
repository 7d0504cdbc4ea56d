"""Servers with a control server beside them, in memory: one process, or a supervisor's workers."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import trio
import trio.testing

from trifcgi import Client, Request
from trifcgi.admin import (
    About,
    ControlHandler,
    Controls,
    Fleet,
    FleetSource,
    LocalSource,
    Member,
    Setting,
    Source,
)
from trifcgi.client import Response
from trifcgi.errors import ConnectionLost
from trifcgi.observe.metrics import Metrics
from trifcgi.server import DataPlane
from trifcgi.testing import MemoryServer, open_client, params

__all__ = ["ABOUT", "Answer", "Crowd", "LocalControls", "Rig", "app", "local_rig", "worker_rig"]

ABOUT = About(
    app="shop:app",
    kind="native handler",
    settings=[
        Setting("port", "9000", "--port"),
        Setting("admin-token-file", "/etc/token", "default"),
        Setting("api-token", "geheim", "TRIFCGI_API_TOKEN"),
    ],
)

HEAD = b"Status: 200 OK\r\nContent-Type: text/plain\r\nSet-Cookie: sid=geheim\r\n\r\n"


async def app(request: Request) -> None:
    """Answer at once, or hold on while a task of its own holds on, too."""
    if request.params["SCRIPT_NAME"].startswith("/hold"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever, name="the inner task")
    await request.stdout.send_all(HEAD + b"hello")


@attrs.frozen
class Answer:
    """What the control server said."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def data(self) -> Any:
        """As JSON."""
        return json.loads(self.text)

    @classmethod
    def of(cls, response: Response) -> "Answer":
        """From a whole response."""
        return cls(response.status, dict(response.headers), response.body.decode())


class LocalControls(Controls):
    """Runs a data plane, as a worker does."""

    def __init__(self, plane: DataPlane | None) -> None:
        self.running = plane
        self.stops = 0
        self.reopened = 0

    @property
    def plane(self) -> DataPlane | None:
        return self.running

    @property
    def addresses(self) -> Sequence[str]:
        return []

    @property
    def lines_lost(self) -> int:
        return 0

    def stop(self) -> None:
        self.stops += 1
        if self.running is not None:
            self.running.drain()

    def reopen_logs(self) -> None:
        self.reopened += 1


class Rig:
    """A front end's client, the control server's client, and what is behind them.

    Attributes:
        front: requests on it go to the app.
        control: requests on it go to the control server.
        controls: of each process.
    """

    def __init__(
        self, source: Source, front: Client, control: Client, controls: Sequence[LocalControls]
    ) -> None:
        self.source = source
        self.front = front
        self.control = control
        self.controls = controls

    async def ask(self, method: str, path: str, query: str = "", **headers: str) -> Answer:
        """Have a command done."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        pairs = params(path, method=method, query=query, headers=more, PATH_INFO=path)
        pairs.append(("SCRIPT_NAME", ""))
        with trio.fail_after(5):
            return Answer.of(await self.control.request(pairs))

    async def get(self, path: str, query: str = "") -> Any:
        """The JSON of an answer that has to be well."""
        answer = await self.ask("GET", path, query)
        assert answer.status == 200, answer
        return answer.data

    @asynccontextmanager
    async def held(self, path: str = "/hold", query: str = "") -> AsyncGenerator[str]:
        """A request that goes on for the length of the block; gives its ID."""
        before = {request["id"] for request in (await self.get("/requests"))["requests"]}
        cookie = {"Cookie": "sid=geheim", "Authorization": "Basic geheim"}
        async with self.front.open(params(path, query=query, headers=cookie)):
            while True:
                await trio.testing.wait_all_tasks_blocked()
                now = {request["id"] for request in (await self.get("/requests"))["requests"]}
                if now - before:
                    yield (now - before).pop()
                    return


@asynccontextmanager
async def local_rig() -> AsyncGenerator[Rig]:
    """One process."""
    controls = LocalControls(None)
    counter = Metrics()
    source = LocalSource(ABOUT, controls, counter)
    server = MemoryServer(app, instruments=[counter])
    async with server, server.client() as front, open_client(ControlHandler(source)) as control:
        controls.running = server.plane
        yield Rig(source, front, control, [controls])


class Worker(Member):
    """A worker whose control handler is at the other end of memory streams."""

    def __init__(self, number: int, control: Client) -> None:
        self._number = number
        self.control = control
        self.mute = False
        self.lost = False
        self.current_state = "running"

    @property
    def number(self) -> int:
        return self._number

    @property
    def pid(self) -> int:
        return 1000 + self._number

    @property
    def generation(self) -> int:
        return 3

    @property
    def state(self) -> str:
        return self.current_state

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        if self.lost:
            raise ConnectionLost("it has ended")
        if self.mute:
            await trio.sleep_forever()
        path, _, query = path.partition("?")
        pairs = params(path, method=method, query=query, PATH_INFO=path)
        response = await self.control.request([*pairs, ("SCRIPT_NAME", "")], body)
        return response.status, json.loads(response.body)


class Crowd(Fleet):
    """A supervisor of such workers, that notes what it is asked for."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers
        self.asked: list[str] = []
        self.lost_requests = 0
        self.stopping = False

    @property
    def members(self) -> Sequence[Worker]:
        return self.workers

    @property
    def restarts(self) -> int:
        return 4

    @property
    def killed(self) -> int:
        return self.lost_requests

    @property
    def draining(self) -> bool:
        return self.stopping

    @property
    def addresses(self) -> Sequence[str]:
        return ["127.0.0.1:9000"]

    @property
    def grace(self) -> float:
        return 30.0

    def stop(self) -> None:
        self.asked.append("stop")
        self.stopping = True

    def reload(self) -> None:
        self.asked.append("reload")

    def reopen_log(self) -> None:
        self.asked.append("reopen_log")


@attrs.define
class WorkerRig:
    """Two workers and their supervisor."""

    rig: Rig
    crowd: Crowd
    source: FleetSource
    fronts: list[Client]


@asynccontextmanager
async def worker_rig() -> AsyncGenerator[WorkerRig]:
    """Two workers; the front end's client is connected to the second."""
    async with AsyncExitStack() as stack:
        workers, controls, fronts = [], [], []
        for number in (1, 2):
            control = LocalControls(None)
            counter = Metrics()
            source = LocalSource(ABOUT, control, counter)
            server = MemoryServer(app, instruments=[counter])
            await stack.enter_async_context(server)
            control.running = server.plane
            fronts.append(await stack.enter_async_context(server.client()))
            asked = await stack.enter_async_context(open_client(ControlHandler(source)))
            workers.append(Worker(number, asked))
            controls.append(control)
        crowd = Crowd(workers)
        whole = FleetSource(ABOUT, crowd)
        control_client = await stack.enter_async_context(open_client(ControlHandler(whole)))
        yield WorkerRig(Rig(whole, fronts[1], control_client, controls), crowd, whole, fronts)
