"""What came in earlier blocks of params, to be known again; compiled.

Blocks that come to a server are alike: the same names in the same order, and much of them, what
the front end says of itself and of the server, with the same values. A block that was read is
kept as a path: *steps*, each to the next param whose value varies, over all that is the same; and
a *leaf*, which has what all such blocks mean but for those values. The paths are a tree, as
different blocks begin alike.

Only values under names that say nothing of one client are kept, or empty ones, so nothing of
anybody's stays behind. Of all other params it is the name that is known again. A name that has
come with several values varies from then on, and paths on which it did not are given up: where
each name is one or the other, there are no more paths than kinds of requests.
"""

from typing import TYPE_CHECKING, Any, Final

from trifcgi.cgi.names import COOKIE as COOKIE_HEADER
from trifcgi.cgi.names import LearnedNames, environ_name, header_name
from trifcgi.protocol.pairs import long_lengths

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["Known", "Leaf", "Memory", "Name", "Slot", "Step", "memory", "names"]

_KNOWN_AGAIN: Final = frozenset(
    {
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

# Bounds: of a path, and of the tree.
_MOST_PARAMS: Final = 64
_LONGEST: Final = 256  # a param that is kept with its value
_MOST_KEPT: Final = 4096  # all such of one path
_MOST_VALUES: Final = 2  # of one name
_MOST_DECISIVE_VALUES: Final = 6  # of one on which much depends, and that has few of them
_MOST_BESIDE: Final = 8  # steps, or leaves, in each other's place; the oldest make room
_MOST_LEAVES: Final = 128
_MOST_STEPS: Final = 1024
_MOST_SPELLINGS: Final = 4096
_MOST_GIVEN_UP: Final = 64  # times that all paths are, before all is forgotten

# A block is learned when some were read that were not known, and all is forgotten from time to
# time, as what comes most may have changed.
_LEARN_EVERY: Final = 4
FORGET_AFTER: Final = 10_000

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
REQUEST_TIMEOUT: Final = 11
REQUEST_URI: Final = 12
SCRIPT_NAME: Final = 13
SERVER_ADDR: Final = 14
SERVER_NAME: Final = 15
SERVER_PORT: Final = 16
SERVER_PROTOCOL: Final = 17
HEADER: Final = 18
HOST: Final = 19
COOKIE: Final = 20

NOTHING: Final[list[Any]] = [None] * HEADER
"""The values of a block without params, by kind."""

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
    b"REQUEST_TIMEOUT": REQUEST_TIMEOUT,
    b"REQUEST_URI": REQUEST_URI,
    b"SCRIPT_NAME": SCRIPT_NAME,
    b"SERVER_ADDR": SERVER_ADDR,
    b"SERVER_NAME": SERVER_NAME,
    b"SERVER_PORT": SERVER_PORT,
    b"SERVER_PROTOCOL": SERVER_PROTOCOL,
}

# What decides, beside path, query, client and server name, what a request is.
_DECISIVE: Final = frozenset(
    {
        HTTPS,
        REQUEST_METHOD,
        REQUEST_SCHEME,
        SERVER_ADDR,
        SERVER_PORT,
        SERVER_PROTOCOL,
    }
)


class Name:
    """What a param is by its name.

    Attributes:
        raw: the name.
        kind: which kind of param it is.
        header: the header's name, if it is one.
        key: its key in a WSGI environ; ``None`` if it stays out, or is worked out apart.
        again: whether it says nothing of one client.
    """

    __slots__ = ("_values", "_varies", "again", "header", "key", "kind", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.kind: i64 = _KINDS.get(raw, OTHER)
        name = header_name(raw)
        if name is not None:
            self.kind = COOKIE if name is COOKIE_HEADER else HOST if name == b"host" else HEADER
        self.header = name or b""
        self.key = None if self.kind in {SCRIPT_NAME, PATH_INFO} else environ_name(raw)
        self.again = raw in _KNOWN_AGAIN
        # Cookies are counted, whatever is in them.
        self._varies = self.kind == COOKIE
        self._values: list[bytes] = []

    def comes_again(self, value: bytes) -> bool:
        """Whether a value is one of the few that are kept with the name."""
        if self._varies:
            return False
        if value in self._values:
            return True
        most = _MOST_DECISIVE_VALUES if self.kind in _DECISIVE else _MOST_VALUES
        if (value and not self.again) or len(self._values) == most:
            self._varies = True
            if self._values:
                memory.outdated = True
            return False
        self._values.append(value)
        return True


names: Final = LearnedNames(Name)


class Slot:
    """Where a value that varies goes.

    Attributes:
        number: which one, in the order in which they come.
        place: where it goes in a list.
        raw: the name of its param.
        kind: the kind of that.
        header: the header's name, if it is one.
        key: the key in a WSGI environ.
    """

    __slots__ = ("header", "key", "kind", "number", "place", "raw")

    def __init__(self, number: "i64", name: Name, place: "i64") -> None:
        self.number: i64 = number
        self.raw = name.raw
        self.kind: i64 = name.kind
        self.header = name.header
        self.place: i64 = place
        self.key = name.key or ""


class Known:
    """What blocks mean, or their beginnings, that are the same but for the values that vary.

    Attributes:
        count: how many params there are.
        values: those that are asked for by name, by kind; of a repeated one the last.
        headers: the headers in order, as pairs, with something else where a value varies.
        cookies: how many of them are cookies.
        named: where values go that vary and are asked for by name.
        fields: where those go that are headers.
        host: which value is that of HTTP_HOST; negative: it does not vary.
    """

    __slots__ = ("cookies", "count", "fields", "headers", "host", "named", "values")

    def __init__(self) -> None:
        self.count: i64 = 0
        self.values: list[Any] = NOTHING.copy()
        # Pairs of bytes; but compiled code takes a declared tuple apart whenever it passes.
        self.headers: list[Any] = []
        self.cookies: i64 = 0
        self.named: list[Slot] = []
        self.fields: list[Slot] = []
        self.host: i64 = -1

    def so_far(self) -> "Known":
        """What is known now."""
        known = Known()
        known.count = self.count
        known.values = self.values.copy()
        known.headers = self.headers.copy()
        known.cookies = self.cookies
        known.named = self.named.copy()
        known.fields = self.fields.copy()
        known.host = self.host
        return known

    def fill(self, found: list[bytes]) -> list[Any]:
        """The values by kind, with those that vary."""
        values = self.values.copy()
        for slot in self.named:
            values[slot.kind] = found[slot.number]
        return values

    def fill_headers(self, found: list[bytes]) -> list[Any]:
        """The headers, with those that vary."""
        headers = self.headers.copy()
        for slot in self.fields:
            headers[slot.place] = (slot.header, found[slot.number])
        return headers


class Leaf(Known):
    """What whole blocks mean.

    Attributes:
        agent: which value is that of HTTP_USER_AGENT; negative: there is none, or it is empty.
        referer: the same of HTTP_REFERER.
        tail: the params behind the last one that varies.
        other: what may be in its place.
        pairs: all params, with something else where a value varies.
        varying: where those go.
        entries: where those go that a WSGI environ has.
        named_apart: whether the server's name varies.
        steady: whether none varies that is not of the path, the query, the client, the server's
            name or a header.
        apart: whether no key of a WSGI environ comes twice.
        plain: whether the headers are all that :meth:`fill_headers` gives: there is no media type,
            no content length, and no more than one cookie.
        scope: what an ASGI scope has in common with others, if the leaf is steady.
        environ: the same of a WSGI environ, if they are apart.
        settled: whether nothing is to be corrected in the environ any more.
    """

    __slots__ = (
        "_keys",
        "agent",
        "apart",
        "entries",
        "environ",
        "named_apart",
        "other",
        "pairs",
        "plain",
        "referer",
        "scope",
        "settled",
        "steady",
        "tail",
        "varying",
    )

    def __init__(self) -> None:
        super().__init__()
        self.agent: i64 = -1
        self.referer: i64 = -1
        self.tail = b""
        self.other: Leaf | None = None
        self.pairs: list[Any] = []
        self.varying: list[Slot] = []
        self.entries: list[Slot] = []
        self.steady = True
        self.apart = True
        self.plain = False
        self.named_apart = False
        self._keys: set[str] = set()
        self.scope: dict[str, Any] | None = None
        self.environ: dict[str, str] | None = None
        self.settled = False

    def add(self, name: Name, value: bytes | None, number: "i64") -> None:
        """Have one more param.

        Args:
            name: its name.
            value: its value; ``None``: it varies.
            number: which of those it is.
        """
        if value is None:
            self.varying.append(Slot(number, name, self.count))
            self.pairs.append(None)
        else:
            self.pairs.append((name.raw, value))
        self.count += 1
        kind = name.kind
        if kind >= HEADER:
            self._add_header(name, value, number)
        elif kind != OTHER:
            self.named = [slot for slot in self.named if slot.kind != kind]  # the last counts
            self.values[kind] = value
            if value is None:
                self.named.append(Slot(number, name, 0))
                self.steady = self.steady and kind not in _DECISIVE
        key = name.key
        if key is not None:
            self.apart = self.apart and key not in self._keys
            self._keys.add(key)
            if value is None:
                self.entries.append(Slot(number, name, 0))

    def finish(self, tail: bytes) -> None:
        """All params are there."""
        self.tail = tail
        varying = [slot.kind for slot in self.named]
        self.named_apart = SERVER_NAME in varying
        self.plain = self.cookies <= 1 and not (
            self.values[CONTENT_TYPE]
            or self.values[CONTENT_LENGTH]
            or CONTENT_TYPE in varying
            or CONTENT_LENGTH in varying
        )

    def _add_header(self, name: Name, value: bytes | None, number: "i64") -> None:
        if name.kind == COOKIE:
            self.cookies += 1
        # Neither is kept with a value, unless that is empty.
        if name.raw == b"HTTP_USER_AGENT":
            self.agent = number if value is None else -1
        elif name.raw == b"HTTP_REFERER":
            self.referer = number if value is None else -1
        if value is None:
            if name.kind == HOST:
                self.host = number
            self.fields.append(Slot(number, name, len(self.headers)))
            self.headers.append(None)
        elif value or name.kind != HOST:  # Caddy's word for: there was none
            self.headers.append((name.header, value))


class Step:
    """A param whose value varies, and what comes ahead of it.

    Attributes:
        lead: the params ahead of it, which are always the same, and the length of its name.
        size: the length of that.
        name: its name.
        length: the length of that, and of the byte ahead of it.
        ahead: the length of all that comes ahead of the value.
        spelt: all that, by the length of the value, which is a byte in it; as far as it has come.
        then: what may follow.
        other: what may be in its place.
        leaf: what may end the block behind it.
        known: what blocks mean, so far.
    """

    __slots__ = (
        "ahead",
        "known",
        "lead",
        "leaf",
        "length",
        "name",
        "other",
        "size",
        "spelt",
        "then",
    )

    def __init__(self, lead: bytes, name: bytes, known: Known) -> None:
        self.lead = lead
        self.size: i64 = len(lead)
        self.name = name
        self.length: i64 = 1 + len(name)
        self.ahead: i64 = self.size + self.length
        # For each byte, though no length is above 127 in one; a list is the quickest to ask.
        self.spelt: list[bytes] = [b""] * 256
        self.then: Step | None = None
        self.other: Step | None = None
        self.leaf: Leaf | None = None
        self.known = known

    def read(self, block: bytes, at: "i64", length: "i64") -> "tuple[i64, i64]":
        """Read a param that is not :attr:`spelt` so.

        Args:
            block: all.
            at: where this step begins.
            length: what stands where the length of the value would.

        Returns:
            Where the value begins, and how long it is; or -1 where it is another param, or the
            block ends before.
        """
        start: i64 = at + self.size
        if self.spelt[length] or block[at:start] != self.lead:
            return -1, 0
        begin: i64 = start
        if length >= 128:
            try:
                begin, _, length = long_lengths(block, start - 1)
            except IndexError:
                return -1, 0
            begin -= 1
        middle: i64 = begin + self.length
        if block[begin + 1 : middle] != self.name:
            return -1, 0
        if begin == start and self.ahead <= _LONGEST and memory.spellings < _MOST_SPELLINGS:
            memory.spellings += 1
            self.spelt[length] = block[at:middle]
        return middle, length

    def reach(self, further: "Step") -> "Step":
        """A step that follows: the same as another, or that one."""
        before: Step | None = None
        step = self.then
        number = 0
        while step is not None:
            if step.lead == further.lead and step.name == further.name:
                return step
            number += 1
            if number == _MOST_BESIDE and before is not None:
                before.other = None
            before = step
            step = step.other
        further.other = self.then
        self.then = further
        return further

    def end(self, leaf: "Leaf") -> None:
        """Have a leaf, unless the same is there."""
        before: Leaf | None = None
        other = self.leaf
        number = 0
        while other is not None:
            if other.tail == leaf.tail:
                return
            number += 1
            if number == _MOST_BESIDE and before is not None:
                before.other = None
            before = other
            other = other.other
        leaf.other = self.leaf
        self.leaf = leaf


class Memory:
    """What came before.

    Attributes:
        root: where all paths begin.
        outdated: whether a name varies that did not on some path.
        readings: how many blocks were read since all was forgotten.
        spellings: how many all its steps have of what comes ahead of a value.
    """

    __slots__ = (
        "_given_up",
        "_leaves",
        "_misses",
        "_steps",
        "outdated",
        "readings",
        "root",
        "spellings",
    )

    def __init__(self) -> None:
        self.root = Step(b"", b"", Known())
        self.outdated = False
        self.readings: i64 = 0
        self.spellings: i64 = 0
        self._given_up: i64 = 0
        self._misses: i64 = 0
        self._steps: i64 = 0
        self._leaves: i64 = 0

    def forget(self) -> None:
        """Begin afresh."""
        names.clear()
        self.readings = 0
        self._given_up = 0
        self._misses = 0
        self._give_up()

    def _give_up(self) -> None:
        """Begin afresh, but for what is known of names."""
        self.root = Step(b"", b"", Known())
        self.outdated = False
        self.spellings = 0
        self._steps = 0
        self._leaves = 0

    def missed(self, block: bytes, count: "i64") -> None:
        """A block was read, to its end, that was not known."""
        self._misses += 1
        if (
            self._misses % _LEARN_EVERY == 0
            and self._leaves < _MOST_LEAVES
            and self._steps < _MOST_STEPS
            and count <= _MOST_PARAMS
        ):
            self._learn(block)

    def _learn(self, block: bytes) -> None:
        leaf = Leaf()
        path: list[Step] = []
        kept: i64 = 0
        begin: i64 = 0
        at: i64 = 0
        end: i64 = len(block)
        while at < end:
            start = at
            at, name_length, value_length = long_lengths(block, at)
            middle: i64 = at + name_length
            at = middle + value_length
            if name_length > LearnedNames.LONGEST:
                return
            raw = block[middle - name_length : middle]
            name = names[raw]
            value = block[middle:at]
            if at - start <= _LONGEST and name.comes_again(value):
                leaf.add(name, value, 0)
                kept += at - start
                continue
            if block[start] >= 128:
                return
            if name.kind == HOST and leaf.host >= 0:
                return
            leaf.add(name, None, len(path))
            path.append(Step(block[begin : start + 1], raw, leaf.so_far()))
            begin = at
        leaf.finish(block[begin:])
        if self.outdated and self._given_up < _MOST_GIVEN_UP:
            self._given_up += 1
            self._give_up()
        if kept <= _MOST_KEPT:
            self._keep(path, leaf)

    def _keep(self, path: list[Step], leaf: Leaf) -> None:
        step = self.root
        for further in path:
            step = step.reach(further)
            if step is further:
                self._steps += 1
        step.end(leaf)
        # Counted even if it was there: to learn in vain again and again costs more than not to
        # know.
        self._leaves += 1


memory: Final = Memory()
