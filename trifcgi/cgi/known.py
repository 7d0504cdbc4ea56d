"""What came in earlier blocks of params, to be known again; compiled.

Much of a block is the same in each request: what the front end says of itself and of the
server. Such params are known again by their bytes, at the place where they stood the last time, a
whole run of neighbours by one look, and what they mean is at hand. Only for names that say
nothing of one client, or values that are empty, so nothing of anybody's stays behind, and few are
forgotten again. Of all others it is the name that is known again.
"""

from typing import TYPE_CHECKING, Any, Final

from trifcgi.cgi.names import COOKIE as COOKIE_HEADER
from trifcgi.cgi.names import ENVIRON_NAMES, HEADER_NAMES, LearnedNames

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["Memory", "Name", "Place", "Run", "Variable", "memory"]

_KNOWN_AGAIN: Final = frozenset(
    {
        b"CONTENT_LENGTH",
        b"CONTENT_TYPE",
        b"CONTEXT_DOCUMENT_ROOT",
        b"CONTEXT_PREFIX",
        b"DOCUMENT_ROOT",
        b"GATEWAY_INTERFACE",
        b"HTTPS",
        b"HTTP_ACCEPT",
        b"HTTP_ACCEPT_ENCODING",
        b"HTTP_CACHE_CONTROL",
        b"HTTP_CONNECTION",
        b"HTTP_DNT",
        b"HTTP_HOST",
        b"HTTP_PRAGMA",
        b"HTTP_PRIORITY",
        b"HTTP_SEC_FETCH_DEST",
        b"HTTP_SEC_FETCH_MODE",
        b"HTTP_SEC_FETCH_SITE",
        b"HTTP_SEC_FETCH_USER",
        b"HTTP_SEC_GPC",
        b"HTTP_UPGRADE_INSECURE_REQUESTS",
        b"HTTP_X_FORWARDED_HOST",
        b"HTTP_X_FORWARDED_PROTO",
        b"PATH",
        b"REDIRECT_STATUS",
        b"REQUEST_METHOD",
        b"REQUEST_SCHEME",
        b"SERVER_ADDR",
        b"SERVER_ADMIN",
        b"SERVER_NAME",
        b"SERVER_PORT",
        b"SERVER_PROTOCOL",
        b"SERVER_SIGNATURE",
        b"SERVER_SOFTWARE",
    }
)
_MOST_PLACES: Final = 64
_LONGEST: Final = 256
_JOIN_EVERY: Final = 250
_JOIN_FIRST: Final = 4
_FORGET_AFTER: Final = 1000
MOST_MISSES: Final = 16

# Kinds of params, by what is made of them. First those that are asked for by name.
OTHER: Final = 0
CONTENT_LENGTH: Final = 1
CONTENT_TYPE: Final = 2
HTTPS: Final = 3
PATH_INFO: Final = 4
QUERY_STRING: Final = 5
REMOTE_ADDR: Final = 6
REMOTE_PORT: Final = 7
REMOTE_USER: Final = 8
REQUEST_METHOD: Final = 9
REQUEST_SCHEME: Final = 10
REQUEST_URI: Final = 11
SCRIPT_NAME: Final = 12
SERVER_ADDR: Final = 13
SERVER_NAME: Final = 14
SERVER_PORT: Final = 15
SERVER_PROTOCOL: Final = 16
HEADER: Final = 17
HOST: Final = 18
COOKIE: Final = 19

_KINDS: Final = {
    b"CONTENT_LENGTH": CONTENT_LENGTH,
    b"CONTENT_TYPE": CONTENT_TYPE,
    b"HTTPS": HTTPS,
    b"PATH_INFO": PATH_INFO,
    b"QUERY_STRING": QUERY_STRING,
    b"REMOTE_ADDR": REMOTE_ADDR,
    b"REMOTE_PORT": REMOTE_PORT,
    b"REMOTE_USER": REMOTE_USER,
    b"REQUEST_METHOD": REQUEST_METHOD,
    b"REQUEST_SCHEME": REQUEST_SCHEME,
    b"REQUEST_URI": REQUEST_URI,
    b"SCRIPT_NAME": SCRIPT_NAME,
    b"SERVER_ADDR": SERVER_ADDR,
    b"SERVER_NAME": SERVER_NAME,
    b"SERVER_PORT": SERVER_PORT,
    b"SERVER_PROTOCOL": SERVER_PROTOCOL,
}


class Name:
    """What a param is by its name.

    Attributes:
        raw: the name.
        length: its length.
        kind: which kind of param it is.
        header: the header's name, if it is one.
        key: its key in a WSGI environ; ``None`` if it stays out, or is worked out apart.
        again: whether it says nothing of one client.
        short: whether it is short enough to be kept.
    """

    __slots__ = ("again", "header", "key", "kind", "length", "raw", "short")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.length: i64 = len(raw)
        self.kind: i64 = _KINDS.get(raw, OTHER)
        name = HEADER_NAMES[raw]
        if name is not None:
            self.kind = COOKIE if name is COOKIE_HEADER else HOST if name == b"host" else HEADER
        self.header = name or b""
        self.key = None if self.kind in {SCRIPT_NAME, PATH_INFO} else ENVIRON_NAMES[raw]
        self.again = raw in _KNOWN_AGAIN
        self.short = len(raw) <= LearnedNames.LONGEST


names: Final = LearnedNames(Name)
_NO_NAME: Final = Name(b"")


class Variable:
    """A param that is asked for by name, known again."""

    __slots__ = ("kind", "value")

    def __init__(self, kind: "i64", value: bytes) -> None:
        self.kind: i64 = kind
        self.value = value


class Run:
    """Params that follow each other, as they came with an earlier request, and what they mean.

    Attributes:
        raw: their lengths, names and values.
        size: the length of that.
        first: its first byte.
        second: its second byte.
        count: how many they are.
        variables: those that are asked for by name.
        headers: those that are headers, as such: pairs of bytes, which compiled code would take
            apart whenever they pass if they were declared.
        environ: they as part of a WSGI environ.
        keys: how many of them go there; the same one may do so twice.
        shorter: what may be at their place when they are not: the first of them alone.
    """

    __slots__ = (
        "count",
        "environ",
        "first",
        "headers",
        "keys",
        "raw",
        "second",
        "shorter",
        "size",
        "variables",
    )

    def __init__(self, raw: bytes, shorter: "Run | None" = None) -> None:
        self.raw = raw
        self.size: i64 = len(raw)
        self.first: i64 = raw[0]
        self.second: i64 = raw[1]
        self.count: i64 = 0
        self.variables: list[Variable] = []
        self.headers: list[Any] = []
        self.environ: dict[str, str] = {}
        self.keys: i64 = 0
        self.shorter = shorter

    def is_at(self, block: bytes, at: "i64") -> bool:
        """Whether they are what begins there."""
        return (
            block[at] == self.first
            and block[at + 1] == self.second
            and block[at : at + self.size] == self.raw
        )

    def add(self, other: "Run") -> None:
        """Have a run that follows in it, too."""
        self.count += other.count
        self.variables += other.variables
        self.headers += other.headers
        self.environ |= other.environ
        self.keys += other.keys


def _run_of_one(name: Name, raw: bytes, value: bytes) -> Run:
    run = Run(raw)
    run.count = 1
    if name.kind >= HEADER:
        if value or name.kind != HOST:
            run.headers.append((name.header, value))
    elif name.kind != OTHER:
        run.variables.append(Variable(name.kind, value))
    if name.key is not None:
        run.environ[name.key] = value.decode("latin-1")
        run.keys = 1
    return run


class Place:
    """What has come at one place.

    Attributes:
        name: the name that stood there the last time.
        run: the params that may begin there; ``None``: nothing that is known again.
        misses: how often it was something else, less how often it was not; with too many
            nothing more is learned.
    """

    __slots__ = ("misses", "name", "run")

    def __init__(self) -> None:
        self.name = _NO_NAME
        self.run: Run | None = None
        self.misses: i64 = 0

    def learn(self, name: Name, raw: bytes, value: bytes) -> None:
        """Take note of a param that is new here, or other than the last time."""
        self.misses += 1
        # Cookies are counted, whatever is in them.
        may_come_again = len(raw) <= _LONGEST and self.misses < MOST_MISSES and name.kind != COOKIE
        self.run = _run_of_one(name, raw, value) if may_come_again else None


class Memory:
    """What came before.

    Attributes:
        places: by number.
        readings: how many blocks were read since all was forgotten. That happens from time to
            time, for places where another param stands now than at first.
    """

    __slots__ = ("beyond", "places", "readings")

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.readings: i64 = 0
        self.beyond = Place()
        self.beyond.misses = MOST_MISSES

    def recall(self) -> list[Place]:
        """What to compare the next block with."""
        self.readings += 1
        if self.readings > _FORGET_AFTER:
            self.readings = 0
            self.places = []
        elif self.readings % _JOIN_EVERY == _JOIN_FIRST:
            self._join()
        return self.places

    def place(self, number: "i64") -> Place:
        """The place of that number, which may be new."""
        places = self.places
        known: i64 = len(places)
        if number < known:
            return places[number]
        if number > known or number >= _MOST_PLACES:
            return self.beyond
        place = Place()
        places.append(place)
        return place

    def _join(self) -> None:
        """Make runs of neighbours that have come again and again."""
        stretch: list[Place] = []
        for place in self.places:
            run = place.run
            if run is not None:
                place.run = run.shorter or run
            if run is not None and not place.misses:
                stretch.append(place)
            else:
                _join(stretch)
                stretch = []
        _join(stretch)


def _join(stretch: list[Place]) -> None:
    runs = [place.run for place in stretch if place.run is not None]
    if len(runs) < 2:
        return
    joined = Run(b"".join([run.raw for run in runs]), runs[0])
    for run in runs:
        joined.add(run)
    stretch[0].run = joined


memory: Final = Memory()
