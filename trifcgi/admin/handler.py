"""The control server's handler: a request in, a command's answer out.

An ordinary handler, so FastCGI and HTTP, sockets and pipes all reach the same commands.
"""

import json
import logging
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

import attrs

from trifcgi.admin.arguments import read_all
from trifcgi.admin.commands import Command, find
from trifcgi.admin.guard import Guard
from trifcgi.admin.page import HEADERS as PAGE_HEADERS
from trifcgi.admin.page import PAGE
from trifcgi.admin.source import CommandFailed, Data, Source
from trifcgi.cgi import BadParams, Meaning, encode_head
from trifcgi.observe.masking import printable
from trifcgi.protocol.constants import Role
from trifcgi.request import Request

__all__ = ["ControlHandler"]

_log: Final = logging.getLogger("trifcgi.admin")

_MOST_BODY: Final = 64 * 1024

_Headers = tuple[tuple[bytes, bytes], ...]

_COMMON: Final[_Headers] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_INERT: Final[_Headers] = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


@attrs.frozen
class _Answer:
    """What goes out."""

    status: int
    content: bytes
    content_type: str
    headers: _Headers = _INERT


class ControlHandler:
    """Answers the control server's requests.

    Args:
        source: what the commands work on.
        guard: who may use them; ``None``: whoever gets here, as over a private socket pair.
        direct: whether requests come over TCP without a front end (see :class:`Guard`).

    Attributes:
        roles: the responder only.
    """

    roles = frozenset({Role.RESPONDER})

    def __init__(
        self, source: Source, guard: Guard | None = None, *, direct: bool = False
    ) -> None:
        self._source = source
        self._guard = guard
        self._direct = direct

    def over_http(self, *, direct: bool) -> "ControlHandler":
        """The same for requests that no front end has passed on."""
        return ControlHandler(self._source, self._guard, direct=direct)

    async def __call__(self, request: Request) -> None:
        """Answer one request."""
        try:
            answer = await self._answer(request)
        except CommandFailed as error:
            answer = _refusal(error.status, str(error))
        await _send(request, answer)

    async def _answer(self, request: Request) -> _Answer:
        try:
            meaning = Meaning(request.pairs)
        except BadParams as error:
            raise CommandFailed(400, str(error)) from error
        path = _path(meaning, request.params)
        method = "GET" if meaning.method == "HEAD" else meaning.method
        if path == "/":
            # Nothing in it but the means to ask: it needs no token, or none could be given to it.
            return _page() if method == "GET" else _wrong_method(["GET"])
        self._check(request, changes=method != "GET")
        found = {command.method: (command, given) for command, given in find(path)}
        if not found:
            raise CommandFailed(404, "There is nothing here; GET /help lists what there is.")
        if method not in found:
            return _wrong_method(sorted(found))
        command, given = found[method]
        query = meaning.query_string.decode("utf-8", "replace")
        arguments = _merge(given, query, await _form(request, meaning))
        wanted = arguments.pop("format", None)
        values = read_all(command.arguments, arguments)
        if method != "GET" and self._guard is not None:
            _log.info("%s asked for by %s", _spelled(path, query), _who(request))
        data = await command.run(self._source, **values)
        return _shown(command, data, wanted, request.params.get("HTTP_ACCEPT", ""))

    def _check(self, request: Request, *, changes: bool) -> None:
        if self._guard is None:
            return
        refusal = self._guard.refusal(request.params, changes=changes, direct=self._direct)
        if refusal is not None:
            status, why = refusal
            _log.warning("%s refused: %s", _who(request), why)
            raise CommandFailed(status, why)


def _path(meaning: Meaning, params: Mapping[str, str]) -> str:
    """The path below wherever the front end has put the control server.

    A front end that passes the whole path on, as nginx's stock params do, has it below a prefix
    that it does not name. The longest end of the path that a command has is meant then.
    """
    path = meaning.path_info.decode("utf-8", "replace") or "/"
    if "PATH_INFO" in params:
        return path
    shorter = path
    while not any(find(shorter)) and shorter != "/":
        _, slash, rest = shorter[1:].partition("/")
        if not slash:
            return path
        shorter = "/" + rest
    return shorter


async def _form(request: Request, meaning: Meaning) -> str:
    """A form's content; of another body nothing."""
    kind = (meaning.content_type or b"").partition(b";")[0].strip().lower()
    if kind != b"application/x-www-form-urlencoded":
        return ""
    body = bytearray()
    async for piece in request.stdin:
        body += piece
        if len(body) > _MOST_BODY:
            raise CommandFailed(413, "The form is too large.")
    return body.decode("utf-8", "replace")


def _merge(given: Mapping[str, str], *encoded: str) -> dict[str, str]:
    merged = dict(given)
    for text in encoded:
        try:
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=50)
        except ValueError as error:
            raise CommandFailed(400, "There are too many arguments.") from error
        for name, value in pairs:
            if name in merged:
                raise CommandFailed(400, f"{name[:80]!r} is given more than once.")
            merged[name] = value
    return merged


def _who(request: Request) -> str:
    peer = getattr(getattr(request, "connection", None), "peer", "")
    address = request.params.get("REMOTE_ADDR", "")
    known = " by way of ".join(part for part in (address, str(peer or "")) if part)
    return printable(known or "a local peer")


def _spelled(path: str, query: str) -> str:
    return printable(f"{path}?{query}" if query else path)[:500]


def _shown(command: Command, data: Data, wanted: str | None, accept: str) -> _Answer:
    status = command.status(data)
    if wanted not in (None, "json", "text"):
        raise CommandFailed(400, "format must be json or text.")
    as_text = wanted == "text"
    if wanted is None:
        as_text = _prefers_text(accept, otherwise=command.prefers_text)
    if as_text:
        return _Answer(status, f"{command.text(data)}\n".encode(), command.text_type)
    return _json(status, data)


def _prefers_text(accept: str, *, otherwise: bool) -> bool:
    kinds = [kind.partition(";")[0].strip().lower() for kind in accept.split(",")]
    for kind in kinds:
        if kind == "application/json":
            return False
        if kind == "text/plain":
            return True
    return otherwise


def _json(status: int, data: Data, headers: _Headers = _INERT) -> _Answer:
    # ASCII only, and "<" spelled out: harmless wherever it ends up.
    text = json.dumps(data).replace("<", "\\u003c")
    return _Answer(status, f"{text}\n".encode(), "application/json", headers)


def _refusal(status: int, why: str) -> _Answer:
    headers = _INERT
    if status == 401:
        headers += ((b"www-authenticate", b'Bearer realm="trifcgi"'),)
    return _json(status, {"error": why}, headers)


def _wrong_method(allowed: list[str]) -> _Answer:
    names = [*allowed, "HEAD"] if "GET" in allowed else allowed
    allow = ((b"allow", ", ".join(names).encode()),)
    return _json(405, {"error": f"This is for {' and '.join(allowed)} only."}, _INERT + allow)


def _page() -> _Answer:
    return _Answer(200, PAGE, "text/html; charset=utf-8", PAGE_HEADERS)


async def _send(request: Request, answer: _Answer) -> None:
    headers = [
        (b"content-type", answer.content_type.encode()),
        (b"content-length", b"%d" % len(answer.content)),
        *_COMMON,
        *answer.headers,
    ]
    bodyless = request.params.get("REQUEST_METHOD") == "HEAD"
    request.stdout.send_head(encode_head(answer.status, headers), bodyless=bodyless)
    await request.stdout.send_all(answer.content)
