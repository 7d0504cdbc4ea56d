"""Where a request goes: path, mount and query, out of what front ends make of a URL.

What they send for ``/app/a%2Fb//c?x``, as seen with nginx 1.22, Apache 2.4.71, mod_fcgid
2.3.9, lighttpd 1.4.69, Caddy 2.6.2 and HAProxy 2.6.12:

============================================  ==================  ==================  ===========
set-up                                        SCRIPT_NAME         PATH_INFO           REQUEST_URI
============================================  ==================  ==================  ===========
nginx, stock ``fastcgi_params``               whole path          absent              raw
nginx, ``fastcgi_split_path_info``            ``/app``, twice     rest, may be empty  raw
nginx, SCRIPT_NAME "" after the include       twice, last is ""   whole path          raw
Apache ProxyPass, ProxyPassMatch, unix        whole path          absent              raw, absolute
                                                                                      form too
Apache ``<Location>`` SetHandler              depends on disk     rest                raw
Apache FallbackResource                       fallback script     absent              original
mod_fcgid Alias                               alias               rest                raw
lighttpd ``"/app"``                           ``/app``            rest, absent if     raw, with
                                                                  empty               #fragment
lighttpd ``"/"``, fix-root-scriptname         ``""``              whole path          raw
lighttpd ``"/"`` without it                   first segment       rest                raw
lighttpd strip-request-uri                    ``/app``            rest                stripped
Caddy                                         ``""``              whole path          re-escaped
Caddy ``split``, php_fastcgi                  up to the match     rest, may be empty  original
Caddy handle_path                             ``""``              stripped path       with prefix
HAProxy                                       whole path          absent              raw
HAProxy ``path-info``                         ``/app``            rest, absent if     raw
                                                                  empty
authorizers of lighttpd and mod_fcgid         absent              absent              raw
============================================  ==================  ==================  ===========

All of it comes down to this: SCRIPT_NAME + PATH_INFO is the decoded path, the one that the
front end matched its access rules on. REQUEST_URI is not: what it spells ``//`` or ``%2e%2e``
would slip past those rules. nginx, Apache and lighttpd have resolved dots and double
slashes in the decoded path; Caddy and HAProxy have not.
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

__all__ = ["cut", "front_end_cut", "mount_bytes", "query_string", "raw_path"]

_ESCAPED_SLASH: Final = re.compile(rb"%2[Ff]")
# Bytes are looked for as numbers: ``in`` with bytes first makes an error and drops it.
_HASH: Final = 0x23
_QUESTION_MARK: Final = 0x3F
_SLASH: Final = 0x2F
_PATH_SAFE: Final = "/:@!$&'()*+,;=~-._"  # RFC 3986 §3.3, pchar


@lru_cache(maxsize=64)
def mount_bytes(mount: str) -> bytes:
    """A mount as compared with paths: without the slash at its end, ``b""`` for the root.

    Raises:
        ValueError: it does not begin with a slash.
    """
    if mount and not mount.startswith("/"):
        raise ValueError(f"a mount begins with a slash, unlike {mount!r}")
    return mount.rstrip("/").encode("utf-8", "surrogateescape")


def _uri_path(uri: bytes) -> bytes:
    """The path in a REQUEST_URI, still escaped; ``b""`` when there is none."""
    path = uri
    if _HASH in path:  # nginx, lighttpd leave the fragment in
        path = path.partition(b"#")[0]
    if _QUESTION_MARK in path:
        path = path.partition(b"?")[0]
    if path and path[0] != _SLASH and b"://" in path:  # Apache passes the absolute form on
        authority_and_path = path.partition(b"://")[2]
        path = b"/" + authority_and_path.partition(b"/")[2]
    return path


def _resolve(path: bytes) -> list[bytes]:
    segments: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del segments[-1:]
        elif segment not in {b"", b"."}:
            segments.append(segment)
    return segments


def _belongs(raw: bytes, path: bytes) -> bool:
    """Whether an escaped path is a spelling of a decoded one.

    Dots and double slashes do not count, as some front ends have resolved them; nor does
    ``%2F``, which Apache's ``AllowEncodedSlashes NoDecode`` leaves in the decoded path. Where
    dots are left in the decoded path (Caddy, HAProxy) nothing has been resolved, and the two
    are the same or strangers.
    """
    if raw == path:
        return True
    decoded = unquote_to_bytes(raw)
    if decoded == path:
        return True
    if not raw or b"/.." in path:
        return False
    return _resolve(decoded) == _resolve(_ESCAPED_SLASH.sub(b"/", path))


def front_end_cut(
    script_name: bytes | None, path_info: bytes | None, uri: bytes | None
) -> tuple[bytes, bytes]:
    """The decoded path in the two pieces that the front end makes of it.

    Its cut stands where PATH_INFO is present, even empty. Where it is absent SCRIPT_NAME is the
    whole path, below the root. (Wrong for one URL alone: the mount itself, ``/app``,
    behind lighttpd and HAProxy's path-info.)

    Authorizers are told neither; what they are asked about is REQUEST_URI, decoded and
    resolved.

    Args:
        script_name: SCRIPT_NAME; ``None``: there is none.
        path_info: PATH_INFO.
        uri: REQUEST_URI.

    Returns:
        SCRIPT_NAME, which does not end with a slash, and PATH_INFO; never both empty.
    """
    if path_info is None:
        path = _asked_about(uri or b"") if script_name is None else script_name
        return b"", path or b"/"
    script_name = script_name or b""
    if script_name.endswith(b"/"):
        script_name = script_name.rstrip(b"/")
        if not path_info.startswith(b"/"):
            path_info = b"/" + path_info
    if not script_name and not path_info:
        path_info = b"/"
    return script_name, path_info


def _asked_about(uri: bytes) -> bytes:
    path = unquote_to_bytes(_uri_path(uri))
    resolved = b"/" + b"/".join(_resolve(path))
    is_folder = resolved != b"/" and path.endswith((b"/", b"/.", b"/.."))
    return resolved + b"/" if is_folder else resolved


def cut(
    script_name: bytes | None, path_info: bytes | None, uri: bytes | None, mount: bytes
) -> tuple[bytes, bytes]:
    """Cut the decoded path in two at a mount: where the app lives, and the rest.

    Without one the front end's cut stands (:func:`front_end_cut`). With one:

    - a path below it is cut there, whatever the front end's own cut;
    - a front end that has taken the mount off the path already, as Caddy's handle_path does
      and REQUEST_URI shows, gets it back: the whole path is the mount's;
    - any other path is left whole under the root mount ``b""``, for the app to answer 404.

    Args:
        script_name: SCRIPT_NAME; ``None``: there is none.
        path_info: PATH_INFO.
        uri: REQUEST_URI.
        mount: as :func:`mount_bytes` makes it.

    Returns:
        SCRIPT_NAME and PATH_INFO, which joined are the path; never both empty.
    """
    above, below_it = front_end_cut(script_name, path_info, uri)
    path = above + below_it
    below = path == mount or path.startswith(mount + b"/")
    if mount:
        raw = _uri_path(uri or b"")
        # "/app/app/x" with "/app" taken off looks as if it were still there.
        looks_stripped = not below or raw.startswith(mount + mount)
        if looks_stripped and _belongs(raw, mount + path):
            return mount, path
    return (mount, path[len(mount) :]) if below else (b"", path)


def raw_path(uri: bytes | None, path: bytes) -> bytes:
    """The path as the client spelt it, without scheme, authority, query and fragment.

    Taken from REQUEST_URI. Where that is missing or spells another path, because the front
    end has rewritten one of the two (lighttpd's strip-request-uri, Apache's
    FallbackResource, an index file), it is the decoded path, percent-encoded.
    """
    if uri is not None:
        raw = uri.partition(b"?")[0] if _QUESTION_MARK in uri else uri
        if raw == path and raw[0] == _SLASH and _HASH not in raw:
            return raw
        raw = _uri_path(uri)
        if _belongs(raw, path):
            return raw
    return quote_from_bytes(path, _PATH_SAFE).encode("ascii")


def query_string(query: bytes | None, uri: bytes | None) -> bytes:
    """The query, escaped, as the front end passes it (lighttpd escapes some more).

    HAProxy leaves an empty QUERY_STRING out; without it REQUEST_URI decides.
    """
    if query is None:
        query = (uri or b"").partition(b"#")[0].partition(b"?")[2]
    return query
