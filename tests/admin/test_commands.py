"""Every command, over one process and over workers: a command without a line here fails."""

import itertools
import logging
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio.testing

from tests.admin.rig import Rig, local_rig, worker_rig
from trifcgi.admin import COMMANDS
from trifcgi.testing import params

WORKERS = ("local", "workers")


@asynccontextmanager
async def any_rig(kind: str) -> AsyncGenerator[Rig]:
    """Either."""
    if kind == "local":
        async with local_rig() as rig:
            yield rig
    else:
        async with worker_rig() as workers:
            yield workers.rig


@attrs.frozen
class Case:
    """What a command is asked, and what its answer has to have in it."""

    check: Callable[[Any], object]
    text: str
    query: str = ""
    status: int = 200


CASES = {
    "status": Case(
        lambda d: (
            d["totals"]["requests"] == 1
            and d["app"] == "shop:app"
            and d["requests"] == 1
            and d["totals"]["responses"] == {"2xx": 1}
            and d["ready"] is True
        ),
        "app          shop:app (native handler)",
    ),
    "health": Case(lambda d: d["healthy"] is True, "healthy  yes"),
    "ready": Case(lambda d: d == {"ready": True, "state": "running"}, "ready  yes"),
    "requests": Case(lambda d: len(d["requests"]) == 1, "/hold"),
    "request": Case(lambda d: d["request"]["task"]["nurseries"], "the inner task"),
    "cancel": Case(lambda d: d["cancelled"], "cancelled"),
    "tasks": Case(
        lambda d: all(w["tasks"] > 5 for w in d["workers"]) and "the inner task" in str(d),
        "the inner task",
    ),
    "connections": Case(
        lambda d: any(connection["requests"] for connection in d["connections"]), "busy"
    ),
    "memory": Case(lambda d: all(w["rss"] > 1 << 20 for w in d["workers"]), "garbage counts"),
    "trace-memory": Case(
        lambda d: all(w["tracing"] is False for w in d["workers"]), "tracing no", "state=off"
    ),
    "config": Case(
        lambda d: (
            d["options"][0] == {"name": "port", "value": "9000", "origin": "--port"}
            and d["limits"]["max_requests"] == 1000
        ),
        "max_requests 1000",
    ),
    "metrics": Case(
        lambda d: d["counts"]["requests"] == [[200, "complete", 1]],
        'trifcgi_requests_total{end="complete",status="200"} 1.0',
    ),
    "stop": Case(lambda d: d["stopping"], "stopping"),
    "drain": Case(lambda d: d["stopping"], "stopping"),
    "reload": Case(lambda d: True, "", status=409),
    "log-level": Case(
        lambda d: all(w["level"] == "warning" for w in d["workers"]),
        "level warning",
        "level=WARNING",
    ),
    "reopen-logs": Case(lambda d: all(w["reopened"] for w in d["workers"]), "reopened yes"),
    "limits": Case(
        lambda d: all(w["limits"]["max_requests"] == 7 for w in d["workers"]),
        "max_requests 7",
        "max-requests=7&max-body=none",
    ),
    "trace": Case(lambda d: all(w["armed"] == 2 for w in d["workers"]), "armed 2", "count=2"),
    "traces": Case(lambda d: d == {"traces": [], "awaited": 0}, "nothing has been traced"),
    "gc": Case(lambda d: all(w["found"] >= 0 for w in d["workers"]), "found"),
    "help": Case(
        lambda d: [c["name"] for c in d["commands"]] == [c.name for c in COMMANDS],
        "List the commands.",
    ),
}


@pytest.fixture(autouse=True)
def unchanged_log_level() -> Iterator[None]:
    """Put back what commands change for the whole process."""
    logger = logging.getLogger("trifcgi")
    level = logger.level
    yield
    logger.setLevel(level)
    tracemalloc.stop()


def test_no_command_goes_untested() -> None:
    assert list(CASES) == [command.name for command in COMMANDS]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
@pytest.mark.parametrize("kind", WORKERS)
@pytest.mark.parametrize("format", ["json", "text"])
async def test_a_command_answers_programs_and_people(kind: str, command: Any, format: str) -> None:
    case = CASES[command.name]
    async with any_rig(kind) as rig:
        await rig.front.request(params("/"))
        async with rig.held() as held:
            path = command.path.replace("{id}", held)
            expected = 200 if (kind, command.name) == ("workers", "reload") else case.status
            query = f"{case.query}&" if case.query else ""
            answer = await rig.ask(command.method, path, f"{query}format={format}")
            assert answer.status == expected, answer
            if format == "json" or expected != 200:
                assert answer.headers["content-type"] == "application/json"
                assert case.check(answer.data), answer.data
            else:
                assert answer.headers["content-type"] == command.text_type
                assert case.text in answer.text


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
async def test_a_command_is_done_with_its_own_method_only(command: Any) -> None:
    async with local_rig() as rig:
        ours = {c.method for c in COMMANDS if c.path == command.path}
        for method in {"GET", "POST", "PUT", "DELETE"} - ours:
            answer = await rig.ask(method, command.path.replace("{id}", "1"))
            assert answer.status == 405
            assert answer.headers["allow"].startswith(min(ours))
        assert rig.controls[0].stops == 0


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_cancelled_request_ends_and_the_others_go_on(kind: str) -> None:
    async with any_rig(kind) as rig, rig.held() as other:
        async with rig.front.open(params("/hold")) as exchange:
            await trio.testing.wait_all_tasks_blocked()
            ids = {r["id"] for r in (await rig.get("/requests"))["requests"]} - {other}
            answer = await rig.ask("POST", f"/requests/{ids.pop()}/cancel")
            assert answer.status == 200
            assert (await exchange.response()).status == 503
            await exchange.wait_ended()
        assert [r["id"] for r in (await rig.get("/requests"))["requests"]] == [other]
        assert (await rig.get("/status"))["totals"]["cancelled"] == 1


@pytest.mark.parametrize("kind", WORKERS)
@pytest.mark.parametrize("id", ["99", "2.99", "9.1", "0.1"])
async def test_a_request_that_is_not_there_is_a_404(kind: str, id: str) -> None:
    async with any_rig(kind) as rig:
        for method, path in (("GET", f"/requests/{id}"), ("POST", f"/requests/{id}/cancel")):
            answer = await rig.ask(method, path)
            assert answer.status == 404
            assert answer.data["error"].startswith(f"There is no request {id}")


MISTAKES = [
    ("GET", "/requests/x", "", "id must be a request's id"),
    ("GET", "/memory", "top=0", "top must be a number from 1 to 1000"),
    ("GET", "/memory", "top=1&top=2", "'top' is given more than once"),
    ("GET", "/status", "x=1", "There is no argument 'x' here."),
    ("GET", "/status", "format=xml", "format must be json or text."),
    ("POST", "/log-level", "", "level is missing"),
    ("POST", "/log-level", "level=loud", "level must be debug, info, warning or error"),
    ("POST", "/limits", "", "Say which limit"),
    ("POST", "/limits", "max-requests=0", "These limits will not do"),
    ("POST", "/limits", "max-requests=none", "These limits will not do"),
    ("POST", "/limits", "max-requests=-1", "max-requests must be a number"),
    ("POST", "/trace", "count=1001", "count must be a number from 1 to 1000"),
    ("POST", "/memory/tracing", "state=maybe", "state must be on or off"),
    ("POST", "/stop", "now=perhaps", "now must be on or off"),
]


@pytest.mark.parametrize("kind", WORKERS)
@pytest.mark.parametrize(("method", "path", "query", "error"), MISTAKES)
async def test_a_mistake_is_a_sentence(
    kind: str, method: str, path: str, query: str, error: str
) -> None:
    async with any_rig(kind) as rig:
        answer = await rig.ask(method, path, query)
        assert answer.status == 400
        assert error in answer.data["error"]


async def test_arguments_may_come_as_a_form() -> None:
    async with local_rig() as rig:
        pairs = params(
            "/",
            method="POST",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            PATH_INFO="/log-level",
            SCRIPT_NAME="",
        )
        response = await rig.control.request(pairs, b"level=error")
        assert response.status == 200
        assert logging.getLogger("trifcgi").level == logging.ERROR


async def test_a_limit_counts_at_once() -> None:
    async with local_rig() as rig, rig.held():
        await rig.ask("POST", "/limits", "max-requests=1")
        assert (await rig.front.request(params("/"))).status == 503
        await rig.ask("POST", "/limits", "max-requests=2")
        assert (await rig.front.request(params("/"))).status == 200


async def test_a_stop_asked_for_twice_or_at_once_is_passed_on_so() -> None:
    async with local_rig() as rig:
        await rig.ask("POST", "/stop")
        assert rig.controls[0].stops == 1
        await rig.ask("POST", "/stop")
        assert rig.controls[0].stops == 2
    async with local_rig() as rig:
        await rig.ask("POST", "/stop", "now=on")
        assert rig.controls[0].stops == 2


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_drain_turns_readiness_off_and_may_be_repeated(kind: str) -> None:
    async with any_rig(kind) as rig, rig.held():
        assert (await rig.ask("GET", "/ready")).status == 200
        for _ in range(3):
            answer = await rig.ask("POST", "/drain")
            assert answer.data == {"stopping": True, "requests": 1, "grace": 30.0}
        ready = await rig.ask("GET", "/ready")
        assert (ready.status, ready.data) == (503, {"ready": False, "state": "draining"})
        assert (await rig.ask("GET", "/health")).status == 200
        assert rig.controls[0].stops == (1 if kind == "local" else 0)


async def test_before_the_start_nothing_is_ready_and_all_else_answers() -> None:
    async with local_rig() as rig:
        rig.controls[0].running = None
        assert (await rig.ask("GET", "/ready")).data == {"ready": False, "state": "starting"}
        assert (await rig.get("/status"))["state"] == "starting"
        assert await rig.get("/requests") == {"requests": []}
        assert await rig.get("/connections") == {"connections": []}
        assert (await rig.ask("POST", "/limits", "max-requests=3")).status == 409


@pytest.mark.parametrize("kind", WORKERS)
async def test_a_trace_shows_every_record_and_no_secret(kind: str) -> None:
    async with any_rig(kind) as rig:
        await rig.ask("POST", "/trace", "count=1")
        secrets = {"Cookie": "sid=geheim", "Authorization": "Basic geheim"}
        await rig.front.request(params("/a", query="x=1&token=geheim", headers=secrets))
        await rig.front.request(params("/b"))
        answer = await rig.ask("GET", "/trace")
        assert "geheim" not in answer.text
        (trace,) = answer.data["traces"]
        assert answer.data["awaited"] == 0
        kinds = [(r["direction"], r["type"]) for r in trace["records"]]
        # How many records the output is in is not the trace's to say.
        assert [kind for kind, _ in itertools.groupby(kinds)] == [
            ("in", "BEGIN_REQUEST"),
            ("in", "PARAMS"),
            ("in", "STDIN"),
            ("out", "STDOUT"),
            ("out", "END_REQUEST"),
        ]
        assert ["REQUEST_URI", "/a?x=1&token=***"] in trace["params"]
        assert trace["meaning"]["path"] == "/a"
        assert trace["ended"]
        text = (await rig.ask("GET", "/trace", "format=text")).text
        assert "-> BEGIN_REQUEST" in text
        assert "Set-Cookie: ***" in text


@pytest.mark.parametrize("kind", WORKERS)
async def test_memory_says_where_it_was_allocated_once_that_is_traced(kind: str) -> None:
    async with any_rig(kind) as rig:
        await rig.ask("POST", "/memory/tracing", "state=on")
        answer = await rig.get("/memory", "top=3")
        assert len(answer["workers"][-1]["top"]) == 3
        assert "allocated at" in (await rig.ask("GET", "/memory", "format=text")).text
