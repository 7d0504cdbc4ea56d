"""Connections, requests and tasks as JSON values, without anybody's secrets."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from trifcgi.admin.source import Data
from trifcgi.observe.masking import mask_param, mask_url
from trifcgi.observe.stacks import Frame, NurseryTree, TaskTree, ThreadStack
from trifcgi.server.connection import Connection
from trifcgi.server.exchange import Exchange
from trifcgi.server.phase import Phase

__all__ = ["count_tasks", "describe_connection", "describe_request", "describe_task", "params_of"]

_LONGEST_URI: Final = 2000  # characters; a list of requests has to stay one that can be read


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def describe_request(exchange: Exchange, now: float) -> Data:
    """One line about a request.

    Args:
        exchange: the request.
        now: the trio clock.
    """
    get = exchange.named.get
    uri = get(b"REQUEST_URI") or get(b"SCRIPT_NAME", b"") + get(b"PATH_INFO", b"")
    age = max(0.0, now - exchange.begun_at)
    deadline = exchange.deadline - now
    return {
        "id": str(exchange.number),
        "worker": 0,
        "request_id": exchange.id,
        "connection": exchange.connection.peer,
        "role": exchange.role.name.lower(),
        "phase": exchange.phase.value,
        "age": round(age, 3),
        "method": _text(get(b"REQUEST_METHOD", b"")),
        "uri": mask_url(_text(uri))[:_LONGEST_URI],
        "host": _text(get(b"HTTP_HOST", b"")),
        "client": _text(get(b"REMOTE_ADDR", b"")),
        "bytes_in": exchange.received,
        "bytes_out": exchange.body_bytes,
        "unread": exchange.unread + exchange.spooled,
        "deadline": round(deadline, 3) if deadline < float("inf") else None,
        "blocked": round(exchange.blocked, 3),
        "in_app": round(age - exchange.blocked, 3) if _in_app(exchange) else 0.0,
        "responding": exchange.head is not None,
        "stopping": None if exchange.reason is None else str(exchange.reason),
    }


def _in_app(exchange: Exchange) -> bool:
    return exchange.phase in (Phase.RUNNING, Phase.RESPONDED)


def params_of(exchange: Exchange) -> list[list[str]]:
    """A request's params as they came, names and values, without secrets."""
    pairs = [(_text(name), _text(value)) for name, value in exchange.pairs]
    return [[name, mask_param(name, value)] for name, value in pairs]


def describe_connection(connection: Connection, now: float) -> Data:
    """One line about a connection."""
    busy = bool(connection.exchanges)
    blocked = connection.wire.blocked_since
    return {
        "worker": 0,
        "peer": connection.peer,
        "state": "closing" if connection.closing else "busy" if busy else "idle",
        "requests": [str(exchange.number) for exchange in connection.exchanges.values()],
        "idle": 0.0 if busy else round(max(0.0, now - connection.idle_since), 3),
        "unsent": connection.wire.unsent,
        "blocked": 0.0 if blocked is None else round(now - blocked, 3),
    }


def describe_task(tree: TaskTree) -> Data:
    """A task and all that is below it."""
    return {
        "name": tree.name,
        "request": None if tree.request is None else str(tree.request),
        "running": tree.running,
        "stack": _stack(tree.frames),
        "threads": [_thread(thread) for thread in tree.threads],
        "nurseries": [_nursery(nursery) for nursery in tree.nurseries],
    }


def _nursery(tree: NurseryTree) -> Data:
    return {"cancelled": tree.cancelled, "tasks": [describe_task(task) for task in tree.tasks]}


def _thread(thread: ThreadStack) -> Data:
    return {"name": thread.name, "stack": _stack(thread.frames)}


def _stack(frames: Iterable[Frame]) -> list[Data]:
    return [
        {"function": f.function, "file": f.file, "line": f.line, "source": f.text} for f in frames
    ]


def count_tasks(task: Data) -> int:
    """The tasks in a description, its top included."""
    nurseries: Sequence[Any] = task["nurseries"]
    return 1 + sum(count_tasks(child) for nursery in nurseries for child in nursery["tasks"])
