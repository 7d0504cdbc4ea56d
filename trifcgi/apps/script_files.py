"""Where on disk the script is that a front end wants, and how its URL is cut."""

import errno
import logging
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import attrs

from trifcgi.cgi import script_filename

__all__ = [
    "Place",
    "ScriptMissing",
    "ScriptOutside",
    "Signature",
    "confine",
    "cut_url",
    "find_script",
    "signature",
]

Signature: TypeAlias = tuple[int, int, int, int]
"""What tells one state of a file from another: device, inode, time of change, size."""

_SUFFIX: Final = b".py"
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})


class ScriptMissing(Exception):
    """There is no such script; the message is for the log, never for the client.

    Attributes:
        level: how loud the log is about it.
    """

    level = logging.INFO


class ScriptOutside(ScriptMissing):
    """What was asked for lies outside the root."""

    level = logging.WARNING


@attrs.frozen
class Place:
    """A script file that was found.

    Attributes:
        path: as it was named; not yet known to lie below the root.
        signature: its state.
    """

    path: bytes
    signature: Signature


def signature(status: os.stat_result) -> Signature:
    """The state of a file by its ``stat``."""
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def find_script(pairs: Sequence[tuple[bytes, bytes]], root: bytes, mount: bytes = b"") -> Place:
    """Find the file that a request is for: the first existing ``.py`` file on the way along
    the path that the front end names and the PATH_INFO behind it.

    - A plain SCRIPT_FILENAME (nginx's ``fastcgi.conf``, lighttpd, HAProxy) counts for what it
      says; Caddy and lighttpd for ``"/"`` name the document root and have the rest in
      PATH_INFO. Where the DOCUMENT_ROOT that it begins with is no directory here, since the
      front end runs on another machine, the root stands in for it. What exists nowhere may
      be a path of the URL space (Apache with ``ProxyFCGIBackendType GENERIC``): it is tried
      below the root.
    - Apache's ``proxy:fcgi://HOST/PATH`` may be a path of this machine (SetHandler,
      ProxyPassMatch) or of the URL space (ProxyPass): tried in this order, then the URL.
    - Without one (nginx's stock ``fastcgi_params``) it is DOCUMENT_ROOT and SCRIPT_NAME, then
      the URL below the root.

    Args:
        pairs: the request's params.
        root: what relative paths and URLs are below; absolute.
        mount: what URLs begin with that is no part of the path below the root. With one, the
            URL is tried for every request.

    Raises:
        ScriptMissing: with what was looked for.
    """
    tried: dict[bytes, None] = {}  # ordered; two ways may lead to one path
    for path in _candidates(pairs, root, mount):
        if path in tried:
            continue
        tried[path] = None
        place = _walk(path)
        if place is not None:
            return place
    paths = ", ".join(os.fsdecode(path) for path in tried)
    raise ScriptMissing(f"there is no script {paths or 'named at all'}")


def _candidates(
    pairs: Sequence[tuple[bytes, bytes]], root: bytes, mount: bytes
) -> Iterator[bytes]:
    params = dict(pairs)
    path_info = params.get(b"PATH_INFO", b"")
    if b"\0" in path_info or b"\0" in params.get(b"SCRIPT_NAME", b""):
        return
    said = params.get(b"SCRIPT_FILENAME")
    plain = not said.startswith(b"proxy:") if said else False
    named = script_filename(pairs)
    if named is not None:
        here = _here(named, params.get(b"DOCUMENT_ROOT", b""), root) if plain else named
        if plain or here.startswith(_below(root, b"")):
            yield here + path_info
        if said and named.startswith(b"/"):
            yield _below(root, named + path_info)
    if not plain or mount:
        url = params.get(b"SCRIPT_NAME", b"") + path_info
        if mount and (url == mount or url.startswith(mount + b"/")):
            url = url[len(mount) :]
        yield _below(root, url)


def _here(named: bytes, document_root: bytes, root: bytes) -> bytes:
    """The path on this machine of one that may be another's."""
    if not named.startswith(b"/"):
        return _below(root, named)
    elsewhere = document_root.rstrip(b"/")
    if (
        elsewhere
        and (named == elsewhere or named.startswith(elsewhere + b"/"))
        and not os.path.isdir(elsewhere)  # noqa: PTH112 - bytes
    ):
        return _below(root, named[len(elsewhere) :])
    return named


def _below(root: bytes, path: bytes) -> bytes:
    return root.rstrip(b"/") + b"/" + path.lstrip(b"/")


def _walk(path: bytes) -> Place | None:
    """The first file along a path whose name ends in ``.py``."""
    # The whole path first: it is nearly always that.
    place = _look(path) if path.endswith(_SUFFIX) else None
    end = path.find(_SUFFIX + b"/")
    while place is None and end >= 0:
        end += len(_SUFFIX)
        place = _look(path[:end])
        end = path.find(_SUFFIX + b"/", end)
    return place


def _look(path: bytes) -> Place | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - 2 µs, a Path would double it
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise ScriptMissing(f"{os.fsdecode(path)}: {error.strerror}") from None
    return Place(path, signature(status)) if stat.S_ISREG(status.st_mode) else None


def confine(path: bytes, root: bytes) -> str:
    """The real path of a script, all links followed.

    Raises:
        ScriptOutside: it does not lie below the real root.
        ScriptMissing: it is no ``.py`` file there.
    """
    try:
        real = os.path.realpath(path, strict=True)
        real_root = os.path.realpath(root, strict=True)
    except OSError as error:
        raise ScriptMissing(f"{os.fsdecode(path)}: {error.strerror}") from None
    if not real.startswith(real_root.rstrip(b"/") + b"/"):
        raise ScriptOutside(
            f"{os.fsdecode(path)} is {os.fsdecode(real)}, outside {os.fsdecode(real_root)}"
        )
    if not real.endswith(_SUFFIX):
        raise ScriptMissing(f"{os.fsdecode(path)} is {os.fsdecode(real)}, which is no .py file")
    return os.fsdecode(real)


def cut_url(pairs: Sequence[tuple[bytes, bytes]], script: bytes) -> tuple[bytes, bytes] | None:
    """Cut a request's URL behind its script's own name.

    Front ends cut there seldom: nginx's stock params and Apache's ProxyPass send the whole
    path as SCRIPT_NAME, Caddy as PATH_INFO, and Apache's ``<Location>`` SetHandler cuts
    where the disk says so.

    Args:
        pairs: the request's params.
        script: the path of its script.

    Returns:
        SCRIPT_NAME and PATH_INFO; ``None`` where the URL does not name the script (rewrites,
        front controllers): the front end's own cut is then the better one.
    """
    params = dict(pairs)
    name = b"/" + script.rpartition(b"/")[2]
    url = params.get(b"SCRIPT_NAME", b"") + params.get(b"PATH_INFO", b"")
    if params.get(b"PATH_INFO") and params.get(b"SCRIPT_NAME", b"").endswith(name):
        return params[b"SCRIPT_NAME"], params[b"PATH_INFO"]
    best, most = -1, 0
    start = url.find(name)
    while start >= 0:
        end = start + len(name)
        if url[end : end + 1] in {b"", b"/"}:
            shared = _shared_tail(url[:end], script)
            if shared > most:
                best, most = end, shared
        start = url.find(name, start + 1)
    return None if best < 0 else (url[:best], url[best:])


def _shared_tail(one: bytes, other: bytes) -> int:
    """How many segments two paths have in common at their ends."""
    count = 0
    for left, right in zip(reversed(one.split(b"/")), reversed(other.split(b"/")), strict=False):
        if left != right:
            break
        count += 1
    return count
