"""Counters inside the measured server: calls and bytecodes by function, garbage, instructions.

Each gives commands for the load to send while the server is held; see :mod:`tests.speed.load`.
"""

import ctypes
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, Final

__all__ = ["COUNTERS", "Command"]

Command = Callable[[], bytes]


def _nothing() -> bytes:
    return b""


def _processor_time() -> bytes:
    return b"%d" % time.process_time_ns()


def _garbage() -> bytes:
    return b"%d" % gc.collect()


def clock(core: str) -> dict[bytes, Command]:
    """Nothing that costs anything: ``t`` gives the processor time so far, in nanoseconds.

    Args:
        core: the processor core to run on; an empty string for any.
    """
    if core:
        os.sched_setaffinity(0, {int(core)})
    return {b"n": _nothing, b"t": _processor_time}


def garbage(_: str) -> dict[bytes, Command]:
    """``c`` collects what reference counting has left over, and says how many objects it was."""
    gc.disable()
    return {b"n": _nothing, b"c": _garbage}


def callgrind(library: str) -> dict[bytes, Command]:
    """``b`` begins to count instructions and ``e`` writes their number to callgrind's file.

    Args:
        library: marker.c, compiled.
    """
    marker = ctypes.CDLL(library)
    gc.disable()

    def call(function: Callable[[], object]) -> bytes:
        function()
        return b""

    return {
        b"n": _nothing,
        b"b": lambda: call(marker.begin),
        b"e": lambda: call(marker.end),
    }


class _Thread:
    """What one thread has executed. One a thread, as adding is no single step."""

    def __init__(self) -> None:
        self.calls: dict[CodeType, int] = {}
        self.bytecodes: dict[CodeType, int] = {}


class _Tracer:
    """Sees every call and every bytecode of every thread from now on."""

    def __init__(self) -> None:
        self._threads: dict[int, _Thread] = {}

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:  # Any: itself
        """A frame is entered: called, or resumed where it has yielded or awaits."""
        ident = threading.get_ident()
        thread = self._threads.get(ident)
        if thread is None:
            thread = self._threads[ident] = _Thread()
        code = frame.f_code
        thread.calls[code] = thread.calls.get(code, 0) + 1
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        bytecodes = thread.bytecodes

        def executed(frame: FrameType, event: str, argument: object) -> Any:  # Any: itself
            if event == "opcode":
                bytecodes[code] = bytecodes.get(code, 0) + 1
            return executed

        return executed

    def report(self) -> bytes:
        """File, line and name of each function, with the calls and the bytecodes so far."""
        calls: dict[CodeType, int] = {}
        bytecodes: dict[CodeType, int] = {}
        for thread in list(self._threads.values()):
            for code, number in list(thread.calls.items()):
                calls[code] = calls.get(code, 0) + number
            for code, number in list(thread.bytecodes.items()):
                bytecodes[code] = bytecodes.get(code, 0) + number
        rows = [
            (_short(code.co_filename), code.co_firstlineno, code.co_qualname, number,
             bytecodes.get(code, 0))
            for code, number in calls.items()
        ]  # fmt: skip
        return json.dumps(rows).encode()


def _short(file: str) -> str:
    """A file's name as it is imported: without the part that is in ``sys.path``."""
    parents = [path for path in sys.path if path and file.startswith(path.rstrip("/") + "/")]
    return file[len(max(parents, key=len)) :].lstrip("/") if parents else file


def python(_: str) -> dict[bytes, Command]:
    """``p`` gives what the interpreter has executed so far, as JSON."""
    gc.disable()
    tracer = _Tracer()
    # Python 3.12 looks only here, once, whether anybody wants to see bytecodes.
    sys._getframe().f_trace_opcodes = True
    threading.settrace(tracer.trace)
    sys.settrace(tracer.trace)
    return {b"n": _nothing, b"p": tracer.report}


COUNTERS: Final[dict[str, Callable[[str], dict[bytes, Command]]]] = {
    "clock": clock,
    "garbage": garbage,
    "callgrind": callgrind,
    "python": python,
}
