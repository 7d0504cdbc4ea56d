"""The WSGI environ in the params of a request; compiled."""

from collections.abc import Sequence
from typing import Final

from trifcgi.cgi.known import QUERY_STRING, Leaf
from trifcgi.cgi.names import ENVIRON_NAMES
from trifcgi.cgi.reading import Reading

__all__ = ["is_settled", "keep_environ", "pick_environ", "usual_environ"]

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


def usual_environ(reading: Reading) -> dict[str, str] | None:
    """The environ of a request, where one like it has been kept."""
    leaf = reading.leaf
    usual = None if leaf is None else leaf.environ
    if leaf is None or usual is None:
        return None
    found = reading.found
    environ = usual.copy()
    for slot in leaf.entries:
        environ[slot.key] = found[slot.number].decode("latin-1")
    return environ


def is_settled(leaf: Leaf) -> bool:
    """Whether the environs of all its requests are corrected in the same way."""
    varying = [slot.key for slot in leaf.entries]
    has_query = leaf.values[QUERY_STRING] is not None or "QUERY_STRING" in varying
    return has_query and _DECISIVE.isdisjoint(varying)


def keep_environ(leaf: Leaf, environ: dict[str, str]) -> None:
    """Keep what the environs of all its requests have in common."""
    usual = environ.copy()
    for slot in leaf.entries:
        usual[slot.key] = ""
    # These are worked out apart, and may be one client's own.
    usual.pop("SCRIPT_NAME", None)
    usual.pop("PATH_INFO", None)
    leaf.environ = usual


def pick_environ(pairs: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The environ in pairs."""
    environ: dict[str, str] = {}
    names = ENVIRON_NAMES
    kept = 0
    for param, value in pairs:
        name = names[param]
        if name is not None:
            environ[name] = value.decode("latin-1")
            kept += 1
    if len(environ) != kept:
        _join_repeated(pairs, environ)
    return environ


def _join_repeated(pairs: Sequence[tuple[bytes, bytes]], environ: dict[str, str]) -> None:
    values: dict[str, list[bytes]] = {}
    for param, value in pairs:
        name = ENVIRON_NAMES[param]
        if name is not None and name.startswith("HTTP_"):
            values.setdefault(name, []).append(value)
    for name, repeated in values.items():
        if len(repeated) > 1:
            separator = b"; " if name == "HTTP_COOKIE" else b", "
            environ[name] = separator.join(repeated).decode("latin-1")
