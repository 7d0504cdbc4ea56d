"""What a request's params say, in the terms of HTTP, ASGI and WSGI."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from trifcgi._compiled import mypyc_attr
from trifcgi.cgi import target
from trifcgi.cgi.environ import is_settled, keep_environ, pick_environ, usual_environ
from trifcgi.cgi.known import (
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HTTPS,
    PATH_INFO,
    QUERY_STRING,
    REMOTE_ADDR,
    REMOTE_PORT,
    REMOTE_USER,
    REQUEST_METHOD,
    REQUEST_SCHEME,
    REQUEST_URI,
    SCRIPT_NAME,
    SERVER_ADDR,
    SERVER_NAME,
    SERVER_PORT,
    SERVER_PROTOCOL,
    Leaf,
)
from trifcgi.cgi.names import TOKEN
from trifcgi.cgi.reading import Reading, read_pairs, read_params
from trifcgi.protocol.pairs import COMPILED

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["BadParams", "Meaning", "wsgi_environ"]

_HTTP_VERSIONS: Final = {
    b"HTTP/1.1": "1.1",
    b"HTTP/1.0": "1.0",
    b"HTTP/2.0": "2",
    b"HTTP/2": "2",
    b"HTTP/3.0": "3",
    b"HTTP/3": "3",
}
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_COLON: Final = 0x3A  # as a number, like those in cgi/target.py
_MOST_DIGITS: Final = 18  # a larger content length is no length; and int() has bounds of its own


class BadParams(ValueError):
    """The params make no HTTP request; the message says in a sentence what is missing."""


def text_of(path: bytes) -> str:
    """A path as text; see :attr:`Meaning.path`."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return path.decode("utf-8", "replace")


def _number(digits: bytes | None) -> int | None:
    if not digits or not digits.isdigit() or len(digits) > _MOST_DIGITS:
        return None
    return int(digits)


def _port(digits: bytes | None) -> int:
    """The number of a port, 0 for none."""
    if not digits or len(digits) > _MOST_DIGITS:
        return 0
    if not COMPILED:
        number = int(digits) if digits.isdigit() else 0
        return number if number < 65536 else 0
    port: i64 = 0
    at: i64 = 0
    end: i64 = len(digits)
    while at < end:
        digit: i64 = digits[at]
        if digit < 0x30 or digit > 0x39:
            return 0
        port = port * 10 + digit - 0x30
        at += 1
    return port if port < 65536 else 0


def _split_host(name: bytes) -> tuple[str, int]:
    """Host and port of a SERVER_NAME.

    HAProxy puts the whole Host header there; an IPv6 address comes in brackets, or from
    Caddy without.
    """
    if _COLON not in name:
        return name.decode("latin-1"), 0
    port = b""
    if name.startswith(b"["):
        name, _, port = name[1:].partition(b"]")
        port = port.removeprefix(b":")
    elif name.count(b":") == 1:
        name, _, port = name.partition(b":")
    return name.decode("latin-1"), _port(port)


def _method(given: bytes | None) -> str:
    # Compared, not looked up: it is one of the two nearly always.
    if given == b"GET":
        return "GET"
    if given == b"POST":
        return "POST"
    if not given:
        raise BadParams("The params have no REQUEST_METHOD, so they make no request.")
    if not given.isalpha() and TOKEN.fullmatch(given) is None:
        raise BadParams(f"REQUEST_METHOD is no HTTP method: {given[:40]!r}.")
    return given.decode("ascii")


def client_of(reading: Reading) -> tuple[str, int] | None:
    """See :attr:`Meaning.client`."""
    values = reading.values
    address: bytes | None = values[REMOTE_ADDR]
    if not address or address == b"unix:":
        return None
    port: bytes | None = values[REMOTE_PORT]
    if not COMPILED and port and len(port) < 6 and port.isdigit():
        number = int(port)  # as _port() does it, without the call
        return address.decode("latin-1"), number if number < 65536 else 0
    return address.decode("latin-1"), _port(port)


def server_of(reading: Reading, scheme: str) -> tuple[str, int] | None:
    """See :attr:`Meaning.server`."""
    values = reading.values
    host, port_in_name = _split_host(values[SERVER_NAME] or b"")
    if not host:
        address: bytes = values[SERVER_ADDR] or b""
        host = address.decode("latin-1")
    if not host:
        return None
    port = _port(values[SERVER_PORT]) or port_in_name
    return host, port or _DEFAULT_PORTS[scheme]


def headers_of(reading: Reading) -> list[tuple[bytes, bytes]]:
    """See :attr:`Meaning.headers`."""
    leaf = reading.leaf
    headers = reading.headers.copy() if leaf is None else leaf.fill_headers(reading.found)
    if leaf is not None and leaf.plain:
        return headers
    if reading.cookies > 1:
        headers = _with_one_cookie(headers)
    values = reading.values
    media_type = values[CONTENT_TYPE]
    if media_type:
        headers.append((b"content-type", media_type))
    length = values[CONTENT_LENGTH]
    if length and _number(length) is not None:
        headers.append((b"content-length", length))
    return headers


def cut_of(reading: Reading, mount: str | None) -> tuple[bytes, bytes]:
    """The decoded path in two pieces: down to where the app lives, and from there on."""
    values = reading.values
    script_name, path_info, uri = values[SCRIPT_NAME], values[PATH_INFO], values[REQUEST_URI]
    if mount is None:
        return target.front_end_cut(script_name, path_info, uri)
    return target.cut(script_name, path_info, uri, target.mount_bytes(mount))


@mypyc_attr(free_list_len=1)
class Meaning:
    """One request's params, understood. Each attribute is worked out when it is asked for.

    Where a front end sends a name twice, the last value counts (nginx, when a
    ``fastcgi_param`` follows the include that has it too); repeated ``HTTP_`` params are
    repeated headers.

    Attributes:
        method: as the client wrote it. It stays in its case: methods are case-sensitive
            (RFC 9110 §9.1), and a ``get`` that passed a front end's rules about ``GET``
            must not become one here.
        script_name: the decoded path down to where the app lives, as bytes.
        path_info: the decoded path from there on, as bytes.
    """

    __slots__ = ("_pairs", "_reading", "_values", "method", "path_info", "script_name")

    def __init__(
        self,
        params: Sequence[tuple[bytes, bytes]] | bytes | Reading,
        *,
        mount: str | None = None,
    ) -> None:
        """Understand the params of a request.

        Args:
            params: the params with duplicates, as pairs, or as they came over the wire (§3.4)
                and :func:`~trifcgi.protocol.decode_pairs` takes them, or read already.
            mount: the URL prefix that the app lives under, ``/app``, in place of the
                front end's own idea. A path outside it is left whole, under the root.

        Raises:
            BadParams: there is no REQUEST_METHOD, or it is no method.
            ValueError: a mount that does not begin with a slash.
            ProtocolError: they end inside a pair.
        """
        self._pairs: Sequence[tuple[bytes, bytes]] | None = None
        if isinstance(params, Reading):
            reading = params
        elif isinstance(params, bytes):
            reading = read_params(params, len(params))
        else:
            self._pairs = params
            reading = read_pairs(params)
        self._reading = reading
        self._values = reading.values
        self.method: str = _method(self._values[REQUEST_METHOD])
        self.script_name: bytes
        self.path_info: bytes
        self.script_name, self.path_info = cut_of(reading, mount)

    def __repr__(self) -> str:
        return f"<Meaning {self.method} {self.raw_path!r}>"

    @property
    def path(self) -> str:
        """The decoded path, :attr:`root_path` included, as ASGI has it.

        Bytes that are no UTF-8 show as U+FFFD, so that the text can always be encoded again;
        :attr:`raw_path` still has them.
        """
        path = text_of(self.path_info)
        return self.root_path + path if self.script_name else path

    @property
    def root_path(self) -> str:
        """Where the app lives, ``""`` for the root; :attr:`path` begins with it."""
        return text_of(self.script_name)

    @property
    def raw_path(self) -> bytes:
        """The path as the client spelt it, escapes and all, without the query.

        Where the front end does not say, the decoded path, escaped.
        """
        path = self.script_name + self.path_info if self.script_name else self.path_info
        return target.raw_path(self._values[REQUEST_URI], path)

    @property
    def query_string(self) -> bytes:
        """What follows the ``?``, escaped; ``b""`` without one."""
        return target.query_string(self._values[QUERY_STRING], self._values[REQUEST_URI])

    @property
    def http_version(self) -> str:
        """``1.0``, ``1.1``, ``2`` or ``3``: between client and front end."""
        return _HTTP_VERSIONS.get(self._values[SERVER_PROTOCOL] or b"", "1.1")

    @property
    def scheme(self) -> str:
        """``https`` or ``http``: by HTTPS, which all front ends send on TLS only, else by
        REQUEST_SCHEME, which HAProxy does not send. Never by a header.
        """
        https = self._values[HTTPS]
        if https is not None and https.lower() in {b"on", b"1"}:
            return "https"
        scheme = self._values[REQUEST_SCHEME]
        if scheme is None or scheme == b"http":
            return "http"
        return "https" if scheme.lower() == b"https" else "http"

    @property
    def client(self) -> tuple[str, int] | None:
        """The client's address and port, 0 where unknown.

        ``None`` for HAProxy's health checks, which name none, and for clients of an nginx on
        a Unix socket (``unix:``).
        """
        return client_of(self._reading)

    @property
    def server(self) -> tuple[str, int] | None:
        """Host, without brackets, and port that the front end was reached at.

        Most front ends let the client's ``Host`` decide, so it is no more to be trusted than
        that. SERVER_PORT comes before a port within SERVER_NAME (HAProxy); without both it is
        the scheme's. ``None`` when there is no name at all: Caddy, lighttpd, HTTP/1.0.
        """
        return server_of(self._reading, self.scheme)

    @property
    def content_length(self) -> int | None:
        """The length that the body is said to have; ``None`` where that is not known.

        nginx sends ``""`` for no body, Caddy ``-1`` for a chunked one, Apache nothing for
        either. Only the end of stdin ends a body.
        """
        return _number(self._values[CONTENT_LENGTH])

    @property
    def content_type(self) -> bytes | None:
        """The body's media type; ``None`` where it is absent or empty."""
        return self._values[CONTENT_TYPE] or None

    @property
    def remote_user(self) -> str | None:
        """The user's name by REMOTE_USER; ``None`` where it is absent or empty.

        This is not authentication. nginx's stock params and HAProxy copy the name out of the
        client's ``Authorization`` header, whose password nobody has checked. Only behind a
        front end that is configured to check it does it prove anything.
        """
        user = self._values[REMOTE_USER]
        return user.decode("latin-1") if user else None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The request's headers, names in lower case, as ASGI has them: a new list each time.

        Repeated headers stay apart where the front end repeats the param (nginx, HAProxy);
        the others have joined them with ``", "``. Cookies that came in several lines are
        joined with ``"; "`` (RFC 9113 §8.2.3). See :mod:`trifcgi.cgi.names` for what is
        left out.
        """
        return headers_of(self._reading)

    def wsgi_environ(self) -> dict[str, str]:
        """A new PEP 3333 environ, complete but for the ``wsgi.`` keys.

        All params are in it, except those that :mod:`trifcgi.cgi.names` passes over and empty
        ones that WSGI wants absent. Values are bytes read as Latin-1. Repeated headers
        are joined, with ``"; "`` for cookies and ``", "`` for others (RFC 9110 §5.3). See
        :attr:`remote_user` before trusting REMOTE_USER.
        """
        reading = self._reading
        leaf = reading.leaf
        environ = usual_environ(reading)
        if environ is None:
            pairs = self._pairs
            environ = pick_environ(reading.pairs() if pairs is None else pairs)
            if leaf is None or not leaf.apart:
                self._correct(environ)
            else:
                self._correct_and_keep(environ, leaf)
        elif leaf is None or not leaf.settled:
            self._correct(environ)
        environ["SCRIPT_NAME"] = self.script_name.decode("latin-1")
        environ["PATH_INFO"] = self.path_info.decode("latin-1")
        return environ

    def _correct_and_keep(self, environ: dict[str, str], leaf: Leaf) -> None:
        leaf.settled = is_settled(leaf)
        if not leaf.settled:
            keep_environ(leaf, environ)
        self._correct(environ)
        if leaf.settled:
            keep_environ(leaf, environ)

    def _correct(self, environ: dict[str, str]) -> None:
        """Make an environ what WSGI wants, all but its path."""
        for name in ("CONTENT_TYPE", "HTTP_HOST", "REMOTE_USER", "AUTH_TYPE"):
            if environ.get(name) == "":
                del environ[name]
        if "CONTENT_LENGTH" in environ and self.content_length is None:
            del environ["CONTENT_LENGTH"]
        if "QUERY_STRING" not in environ:
            environ["QUERY_STRING"] = self.query_string.decode("latin-1")
        if not _names_server(environ):
            host, port = self.server or ("localhost", _DEFAULT_PORTS[self.scheme])
            environ["SERVER_NAME"] = f"[{host}]" if ":" in host else host
            environ["SERVER_PORT"] = str(port)
        if not environ.get("SERVER_PROTOCOL"):
            environ["SERVER_PROTOCOL"] = "HTTP/1.1"


def _names_server(environ: dict[str, str]) -> bool:
    """Whether SERVER_NAME and SERVER_PORT are as WSGI wants them: nearly always."""
    name = environ.get("SERVER_NAME")
    port = environ.get("SERVER_PORT")
    if not name or not port or ":" in name or name.startswith("["):
        return False
    return len(port) < 5 and port.isascii() and port.isdigit() and not port.startswith("0")


def _with_one_cookie(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    cookies = [value for name, value in headers if name == b"cookie"]
    others = [header for header in headers if header[0] != b"cookie"]
    return [*others, (b"cookie", b"; ".join(cookies))]


def wsgi_environ(
    params: Sequence[tuple[bytes, bytes]] | bytes, *, mount: str | None = None
) -> dict[str, str]:
    """The PEP 3333 environ of a request, complete but for the ``wsgi.`` keys.

    The same as :meth:`Meaning.wsgi_environ`, for whoever needs nothing else.

    Raises:
        BadParams: the params make no request.
    """
    return Meaning(params, mount=mount).wsgi_environ()
