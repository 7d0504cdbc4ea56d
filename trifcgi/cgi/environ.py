"""The WSGI environ in a block of params; compiled."""

from typing import TYPE_CHECKING, Any, Final

from trifcgi.cgi.known import HEADER, MOST_MISSES, OTHER, Run, memory, names
from trifcgi.cgi.reading import Reading
from trifcgi.protocol.pairs import long_lengths

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["Environ", "read_environ"]

# What decides whether something in an environ has to be corrected, and how.
_DECISIVE: Final = frozenset(
    {
        "AUTH_TYPE",
        "CONTENT_LENGTH",
        "CONTENT_TYPE",
        "HTTPS",
        "HTTP_HOST",
        "REMOTE_USER",
        "REQUEST_SCHEME",
        "SERVER_ADDR",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
    }
)
_MOST_STEPS: Final = 64


class _Usual:
    """An environ as most are, without what varies.

    Attributes:
        steps: what made it: runs of params that were known again, and the keys of all others.
        keys: those keys.
        values: all of it, corrected, but empty under those keys.
    """

    __slots__ = ("keys", "steps", "values")

    def __init__(self, steps: list[Any], keys: list[str], values: dict[str, str]) -> None:
        self.steps = steps
        self.keys = keys
        self.values = values.copy()
        for key in keys:
            self.values[key] = ""

    def is_of(self, steps: list[Any]) -> bool:
        """Whether the same made another."""
        mine = self.steps
        if len(steps) != len(mine):
            return False
        return all(step is mine[number] for number, step in enumerate(steps))

    def fill(self, texts: list[str]) -> dict[str, str]:
        """An environ of its own, with what varies."""
        values = self.values.copy()
        keys = self.keys
        for number, text in enumerate(texts):
            values[keys[number]] = text
        return values


class _Memory:
    """The usual environ. Where none is, it is seldom that one is made for nothing."""

    __slots__ = ("misses", "usual")

    def __init__(self) -> None:
        self.usual: _Usual | None = None
        self.misses: i64 = 0

    def may_keep(self) -> bool:
        """Whether the next one is worth being kept."""
        self.misses += 1
        return self.misses < MOST_MISSES or self.misses % MOST_MISSES == 0


_memory: Final = _Memory()


class Environ:
    """What is in a block, for WSGI.

    Attributes:
        reading: the params that are asked for by name.
        values: all params, but for SCRIPT_NAME and PATH_INFO.
        apart: whether no key came twice.
        correct: whether all is as WSGI wants it; if not, :meth:`keep` once it is.
    """

    __slots__ = ("_steps", "apart", "correct", "reading", "values")

    def __init__(self, reading: Reading, steps: list[Any], texts: list[str]) -> None:
        self.reading = reading
        self._steps = steps
        usual = _memory.usual
        if usual is not None and usual.is_of(steps):
            _memory.misses = 0
            self.values = usual.fill(texts)
            self.apart = self.correct = True
        else:
            self.values = {}
            self.correct = False
            self.apart = self._collect(texts)

    def _collect(self, texts: list[str]) -> bool:
        values = self.values
        keys: i64 = 0
        number: i64 = 0
        for step in self._steps:
            if isinstance(step, Run):
                values.update(step.environ)
                keys += step.keys
            else:
                values[step] = texts[number]
                number += 1
                keys += 1
        return keys == len(values)

    def keep(self) -> None:
        """Take note of what the next environ may have in common with this one."""
        steps = self._steps
        if not self.apart or len(steps) > _MOST_STEPS or not _memory.may_keep():
            return
        keys = [step for step in steps if isinstance(step, str)]
        if _DECISIVE.isdisjoint(keys) and self.reading.query_string is not None:
            _memory.usual = _Usual(steps, keys, self.values)


def read_environ(block: bytes) -> Environ:
    """Read a block that can be decoded without an error, for WSGI."""
    reading = Reading()
    steps: list[Any] = []
    texts: list[str] = []
    places = memory.recall()
    known: i64 = len(places)
    number: i64 = 0
    at: i64 = 0
    end: i64 = len(block)
    while at < end:
        place = places[number] if number < known else memory.place(number)
        run = place.run
        while run is not None and not run.is_at(block, at):
            run = run.shorter
        if run is not None:
            steps.append(run)
            for variable in run.variables:
                reading.put(variable.kind, variable.value)
            if place.misses:
                place.misses -= 1
            number += run.count
            at += run.size
            continue
        start = at
        name_length: i64 = block[at]
        value_length: i64 = block[at + 1]
        if name_length < 128 and value_length < 128:
            at += 2
        else:
            at, name_length, value_length = long_lengths(block, at)
        middle = at + name_length
        stop = middle + value_length
        name = place.name
        if name_length != name.length or block[at:middle] != name.raw:
            name = names[block[at:middle]]
            if name.short:
                place.name = name
        value = block[middle:stop]
        if name.key is not None:
            steps.append(name.key)
            texts.append(value.decode("latin-1"))
        if OTHER < name.kind < HEADER:
            reading.put(name.kind, value)
        if place.misses < MOST_MISSES:
            if name.again or not value_length:
                place.learn(name, block[start:stop], value)
            elif place.run is not None:
                place.misses += 1
        number += 1
        at = stop
    return Environ(reading, steps, texts)
