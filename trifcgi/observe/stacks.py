"""Where things are: the stacks of coroutines, tasks, requests and threads, as data and as text.

Everything here only looks. It may be called in the event loop, and from another thread while
the event loop is stuck. No values of variables are taken, so that what an application holds
(a password, a cookie) never shows up.
"""

import gc
import itertools
import linecache
import sys
import threading
import types
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import attrs
import trio

__all__ = [
    "Exchange",
    "Frame",
    "NurseryTree",
    "TaskTree",
    "ThreadStack",
    "ThreadsOf",
    "await_stack",
    "describe",
    "format_frames",
    "format_threads",
    "format_tree",
    "request_of",
    "request_tree",
    "running_task",
    "task_tree",
    "thread_stack",
    "thread_stacks",
]

# Deeper stacks are cut in the middle: a recursion that ran wild must not fill the log.
_MOST_FRAMES: Final = 100

_LONGEST_URI: Final = 500


class Exchange(Protocol):
    """What is needed of a request: ``trifcgi.server``'s own object has it.

    Attributes:
        number: never used for another request of this process.
        coroutine: its handler's, while that has been called and has not ended.
        task: the trio task that drives that coroutine.
        aside: what serves it while no task does.
        nurseries: those that its handler has opened in that task and not left.
        params: as the front end sent them.
    """

    # Read-only members, so that narrower types fit.
    @property
    def number(self) -> int: ...
    @property
    def coroutine(self) -> Coroutine[Any, Any, Any] | None: ...
    @property
    def task(self) -> trio.lowlevel.Task | None: ...
    @property
    def aside(self) -> Any: ...
    @property
    def nurseries(self) -> Sequence[trio.Nursery]: ...
    @property
    def params(self) -> Mapping[str, str]: ...


ThreadsOf: TypeAlias = Callable[[Any], Iterable[threading.Thread]]
"""Gives the threads that work now for a task, or for a request that no task serves."""


@attrs.frozen
class Frame:
    """One line of a stack.

    Attributes:
        function: its qualified name.
        file: path of its source.
        line: number of the line that it is at.
        text: that line, ``""`` where the source is not to be had.
    """

    function: str
    file: str
    line: int
    text: str


@attrs.frozen
class ThreadStack:
    """A thread, outermost frame first.

    Attributes:
        name: the thread's.
        ident: as ``threading.get_ident()`` has it.
        frames: empty when the thread has ended meanwhile.
    """

    name: str
    ident: int
    frames: list[Frame]


@attrs.frozen
class NurseryTree:
    """A nursery and what runs in it.

    Attributes:
        deadline: of its cancel scope (trio clock); ``inf`` without one.
        cancelled: whether it has been told to stop.
        tasks: its children.
    """

    deadline: float
    cancelled: bool
    tasks: list["TaskTree"]


@attrs.frozen
class TaskTree:
    """A task, its await stack from the outermost frame, and its nurseries from the outermost.

    Attributes:
        name: the task's; by default the function's that it was started with.
        request: the number of the request that it is driving, if any.
        running: whether it is being stepped at this moment; all others wait.
        frames: where it is. That of a task that drives a request goes on into the handler.
        nurseries: those that it has opened and not left.
        threads: those that work for it.
    """

    name: str
    request: int | None
    running: bool
    frames: list[Frame]
    nurseries: list[NurseryTree]
    threads: list[ThreadStack]


# Stacks


def await_stack(coroutine: Any) -> list[Frame]:
    """Where a coroutine is, outermost frame first; empty once it has ended.

    Args:
        coroutine: a coroutine, a generator-based one, or an asynchronous generator. When it
            runs at this moment, in whichever thread, the stack goes on through the calls it
            is in.
    """
    return _frames(_await_frames(coroutine))


def thread_stack(thread: threading.Thread) -> ThreadStack:
    """Where one thread is."""
    ident = thread.ident or 0
    frame = sys._current_frames().get(ident)
    return ThreadStack(thread.name, ident, _frames(_called(frame)))


def thread_stacks() -> list[ThreadStack]:
    """Where each of this process's threads is, the main thread first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        ThreadStack(names.get(ident, "unknown to threading"), ident, _frames(_called(frame)))
        for ident, frame in sys._current_frames().items()
    ]
    main = threading.main_thread().ident
    return sorted(stacks, key=lambda stack: (stack.ident != main, stack.name, stack.ident))


def _await_frames(awaited: Any) -> list[types.FrameType]:
    """The frames of whatever is awaited, and of what that awaits in turn."""
    frames: list[types.FrameType] = []
    while awaited is not None:
        kind = next((kind for kind in _KINDS if hasattr(awaited, kind.frame)), None)
        if kind is None:
            # What __anext__() and its like return hides its generator; the collector has
            # to know it.
            referents = gc.get_referents(awaited)
            awaited = next((held for held in referents if hasattr(held, "ag_frame")), None)
            continue
        frame: types.FrameType | None = getattr(awaited, kind.frame)
        if frame is None:
            break  # it has ended
        if getattr(awaited, kind.running):
            # An asynchronous generator also says so while it is suspended within.
            running = _running_from(frame)
            if running:
                return frames + running
        frames.append(frame)
        awaited = getattr(awaited, kind.inner)
    return frames


class _Kind(NamedTuple):
    """How one kind of coroutine calls what is of interest."""

    frame: str
    running: str
    inner: str


_KINDS: Final = (
    _Kind("cr_frame", "cr_running", "cr_await"),
    _Kind("gi_frame", "gi_running", "gi_yieldfrom"),
    _Kind("ag_frame", "ag_running", "ag_await"),
)


def _running_from(frame: types.FrameType) -> list[types.FrameType]:
    """``frame`` and all that is called from it, in the thread where it runs, if it does."""
    for innermost in sys._current_frames().values():
        stack = _called(innermost)
        if frame in stack:
            return stack[stack.index(frame) :]
    return []


def _called(frame: types.FrameType | None) -> list[types.FrameType]:
    stack = []
    while frame is not None:
        stack.append(frame)
        frame = frame.f_back
    stack.reverse()
    return stack


def _frames(stack: list[types.FrameType]) -> list[Frame]:
    if len(stack) > _MOST_FRAMES:
        half = _MOST_FRAMES // 2
        left_out = Frame(f"({len(stack) - 2 * half} frames left out)", "", 0, "")
        return [*map(_frame, stack[:half]), left_out, *map(_frame, stack[-half:])]
    return [_frame(frame) for frame in stack]


def _frame(frame: types.FrameType) -> Frame:
    code = frame.f_code
    line = frame.f_lineno or code.co_firstlineno
    text = linecache.getline(code.co_filename, line, frame.f_globals).strip()
    return Frame(code.co_qualname, code.co_filename, line, text)


# Trees


def task_tree(
    task: trio.lowlevel.Task,
    driven: Iterable[Exchange] = (),
    threads_of: ThreadsOf | None = None,
) -> TaskTree:
    """A task and everything below it.

    Args:
        task: ``trio.lowlevel.current_root_task()`` gives the whole run.
        driven: the requests that are running. The await stack of a task that drives one
            ends, without this, where it steps the handler.
        threads_of: says which threads work for a task.
    """
    exchanges = list(driven)
    by_task = {id(each.task): each for each in exchanges if each.task is not None}
    tree = _tree(task, by_task, threads_of)
    for each in exchanges:
        if each.aside is not None:
            tree.threads.extend(_threads(each, threads_of))
    return tree


def request_tree(exchange: Exchange, threads_of: ThreadsOf | None = None) -> TaskTree | None:
    """A request's own part of the tree: its handler, and the tasks in nurseries that this has
    opened. ``None`` when its handler has not been called or has ended; of one that no task
    serves there are the threads.

    Args:
        exchange: the request.
        threads_of: says which threads work for a task.
    """
    task, coroutine = exchange.task, exchange.coroutine
    if exchange.aside is not None:
        threads = _threads(exchange, threads_of)
        return TaskTree("(in threads)", exchange.number, False, [], [], threads)
    if task is None or coroutine is None:
        return None
    return TaskTree(
        name=getattr(coroutine, "__qualname__", type(coroutine).__name__),
        request=exchange.number,
        running=_is_running(coroutine),
        frames=await_stack(coroutine),
        nurseries=[_nursery(nursery, {}, threads_of) for nursery in exchange.nurseries],
        threads=_threads(task, threads_of),
    )


def running_task(root: trio.lowlevel.Task) -> trio.lowlevel.Task | None:
    """The task that is being stepped at this moment; ``None`` while the event loop waits."""
    tasks = [root]
    while tasks:
        task = tasks.pop()
        if _is_running(task.coro):
            return task
        tasks += (child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return None


def request_of(task: trio.lowlevel.Task, exchanges: Iterable[Exchange]) -> Exchange | None:
    """The request whose handler has started a task, in a nursery of its own or below that."""
    above = set()
    nursery = task.parent_nursery
    while nursery is not None:
        above.add(nursery)
        nursery = nursery.parent_task.parent_nursery
    return next((found for found in exchanges if not above.isdisjoint(found.nurseries)), None)


def _tree(
    task: trio.lowlevel.Task, driven: Mapping[int, Exchange], threads_of: ThreadsOf | None
) -> TaskTree:
    frames = await_stack(task.coro)
    exchange = driven.get(id(task))
    if exchange is not None and not _is_running(task.coro):
        frames += await_stack(exchange.coroutine)
    return TaskTree(
        name=task.name,
        request=None if exchange is None else exchange.number,
        running=_is_running(task.coro),
        frames=frames,
        nurseries=[_nursery(nursery, driven, threads_of) for nursery in task.child_nurseries],
        threads=_threads(task, threads_of),
    )


def _nursery(
    nursery: trio.Nursery, driven: Mapping[int, Exchange], threads_of: ThreadsOf | None
) -> NurseryTree:
    # Trio's set, copied in one step: another thread may be looking.
    tasks = sorted(nursery.child_tasks, key=lambda task: task._counter)
    return NurseryTree(
        deadline=nursery.cancel_scope.deadline,
        # The property compares the deadline with trio's clock, which other threads cannot see.
        cancelled=nursery.cancel_scope._cancel_called,
        tasks=[_tree(task, driven, threads_of) for task in tasks],
    )


def _is_running(coroutine: Any) -> bool:
    return bool(getattr(coroutine, "cr_running", False) or getattr(coroutine, "gi_running", False))


def _threads(
    owner: trio.lowlevel.Task | Exchange, threads_of: ThreadsOf | None
) -> list[ThreadStack]:
    return [] if threads_of is None else [thread_stack(thread) for thread in threads_of(owner)]


# Text


def describe(exchange: Exchange) -> str:
    """Name a request on the log: ``GET /path (request 17)``, hostile bytes escaped."""
    params = exchange.params
    uri = params.get("REQUEST_URI") or params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", "")
    method = params.get("REQUEST_METHOD", "-")
    return f"{_plain(method)} {_plain(uri)} (request {exchange.number})"


def _plain(text: str) -> str:
    return ascii(text[:_LONGEST_URI])[1:-1]


def format_frames(frames: Iterable[Frame], indent: str = "  ") -> str:
    """A stack in the words of a Python traceback, the innermost frame last."""
    return "\n".join(_frame_lines(frames, indent))


def format_threads(stacks: Iterable[ThreadStack], indent: str = "") -> str:
    """Threads, each with its stack."""
    return "\n".join(line for stack in stacks for line in _thread_lines(stack, indent))


def format_tree(tree: TaskTree, *, most_lines: int | None = None) -> str:
    """A task tree as indented text.

    Args:
        tree: the tree.
        most_lines: what is beyond so many lines is left out, which the last line says.
    """
    lines = _tree_lines(tree, "")
    if most_lines is None:
        return "\n".join(lines)
    shown = list(itertools.islice(lines, most_lines))
    left_out = sum(1 for _ in lines)
    if left_out:
        shown.append(f"({left_out} more lines left out)")
    return "\n".join(shown)


def _tree_lines(tree: TaskTree, indent: str) -> Iterator[str]:
    request = "" if tree.request is None else f" for request {tree.request}"
    yield f"{indent}task {tree.name}{request}{', running' if tree.running else ''}"
    inner = indent + "  "
    yield from _frame_lines(tree.frames, inner)
    for stack in tree.threads:
        yield from _thread_lines(stack, inner)
    for nursery in tree.nurseries:
        cancelled = ", cancelled" if nursery.cancelled else ""
        yield f"{inner}nursery, tasks: {len(nursery.tasks)}{cancelled}"
        for task in nursery.tasks:
            yield from _tree_lines(task, inner + "  ")


def _thread_lines(stack: ThreadStack, indent: str) -> Iterator[str]:
    yield f"{indent}thread {stack.name}"
    yield from _frame_lines(stack.frames, indent + "  ")


def _frame_lines(frames: Iterable[Frame], indent: str) -> Iterator[str]:
    for frame in frames:
        if not frame.file:
            yield f"{indent}{frame.function}"
            continue
        yield f'{indent}File "{frame.file}", line {frame.line}, in {frame.function}'
        if frame.text:
            yield f"{indent}  {frame.text}"
