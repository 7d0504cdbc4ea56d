"""Reads ``tests/captures``: recorded connections of real front ends, and what is known of them.

Nothing here uses trifcgi, so that what it says can be held against what trifcgi makes of
the same bytes.
"""

import functools
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any, Final

import attrs

__all__ = [
    "CAPTURES",
    "CapturedRequest",
    "CapturedRecord",
    "Capture",
    "Cause",
    "Spawned",
    "load_capture",
    "load_captures",
    "load_responses",
    "load_spawned",
]

CAPTURES: Final = Path(__file__).parent / "captures"


@attrs.frozen
class CapturedRecord:
    """One record of the stream: lengths in bytes."""

    type: str
    request_id: int
    content_length: int
    padding_length: int


@attrs.frozen
class CapturedRequest:
    """One request of a connection, in the order of their FCGI_BEGIN_REQUEST records.

    ``stdin_ended`` says whether the empty STDIN record came; ``params`` are ordered, with
    duplicates.
    """

    id: int
    role: str
    keep_connection: bool
    flags: int
    stdin_bytes: int
    stdin_ended: bool
    aborted: bool
    params: list[tuple[bytes, bytes]] = attrs.field(repr=False)

    def param(self, name: bytes) -> bytes | None:
        """The last value of that name, or ``None``."""
        return dict(self.params).get(name)


@attrs.frozen
class Cause:
    """The HTTP request behind a captured one.

    ``sent`` is what the client wrote: text, pauses in seconds, ``"shut"``, ``"rst"``.
    """

    case: str
    sent: list[str | float]
    answer: str
    client_saw: str


@attrs.frozen
class Capture:
    """One recorded connection, front end to application."""

    file: str
    front_end: str
    variant: str
    version: str
    config: str
    causes: list[Cause] = attrs.field(repr=False)
    records: list[CapturedRecord] = attrs.field(repr=False)
    requests: list[CapturedRequest] = attrs.field(repr=False)
    get_values: list[list[tuple[bytes, bytes]]] = attrs.field(repr=False)

    @property
    def cases(self) -> list[str]:
        """The names of its HTTP requests' cases, in order."""
        return [cause.case for cause in self.causes]

    @property
    def data(self) -> bytes:
        """Every byte that the front end sent."""
        return _content(self.file)


@attrs.frozen
class Spawned:
    """What a process found that a front end started."""

    front_end: str
    config: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    fds: dict[str, str]
    fd0: dict[str, Any]  # address family, name and modes, as the recorder printed them


@functools.cache
def _content(file: str) -> bytes:
    raw = (CAPTURES / file).read_bytes()
    return gzip.decompress(raw) if file.endswith(".gz") else raw


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _long_value(file: str, name: bytes, digest: dict[str, Any]) -> bytes:
    """Find a value of which the index has only the digest.

    No front end cut a pair at a record's end, so name and value stand next to each other.
    """
    content, length = _content(file), int(digest["bytes"])
    at = content.find(name + _bytes(digest["starts"]))
    while at >= 0:
        value = content[at + len(name) : at + len(name) + length]
        if hashlib.sha256(value).hexdigest() == digest["sha256"]:
            return value
        at = content.find(name + _bytes(digest["starts"]), at + 1)
    raise AssertionError(f"{file}: no value of {name!r} has the digest of the index")


def _request(file: str, entry: dict[str, Any]) -> CapturedRequest:
    params = []
    for text, value in entry["params"]:
        name = _bytes(text)
        known = _bytes(value) if isinstance(value, str) else _long_value(file, name, value)
        params.append((name, known))
    return CapturedRequest(
        id=entry["id"],
        role=entry["role"],
        keep_connection=entry["keep_conn"],
        flags=entry["flags"],
        stdin_bytes=entry["stdin_bytes"],
        stdin_ended=entry["stdin_eof"],
        aborted=entry["aborted"],
        params=params,
    )


def _records(entries: list[list[Any]]) -> list[CapturedRecord]:
    records = []
    for entry in entries:
        repeats = entry[4] if len(entry) > 4 else 1
        records += [CapturedRecord(*entry[:4])] * repeats
    return records


def _cause(entry: dict[str, Any]) -> Cause:
    sent = entry["sent"]
    return Cause(
        case=entry["case"],
        sent=[sent] if isinstance(sent, str) else sent,
        answer=entry["answer"],
        client_saw=entry["client_saw"],
    )


def _capture(entry: dict[str, Any]) -> Capture:
    asked = entry.get("get_values", [])
    return Capture(
        file=entry["file"],
        front_end=entry["front_end"],
        variant=entry["variant"],
        version=entry["version"],
        config=entry["config"],
        causes=[_cause(cause) for cause in entry["caused_by"]],
        records=_records(entry["records"]),
        requests=[_request(entry["file"], request) for request in entry["requests"]],
        get_values=[[(_bytes(n), _bytes(v)) for n, v in pairs] for pairs in asked],
    )


@functools.cache
def load_captures() -> list[Capture]:
    """All recorded connections, in the order of the index. Read once a process."""
    index = json.loads((CAPTURES / "index.json").read_text("utf-8"))
    return [_capture(entry) for entry in index]


def load_capture(file: str) -> Capture:
    """The one of that file name, with or without ``.bin`` and ``.bin.gz``."""
    for capture in load_captures():
        if capture.file in (file, f"{file}.bin", f"{file}.bin.gz"):
            return capture
    raise LookupError(f"no capture is named {file!r}")


@functools.cache
def load_responses() -> dict[str, Any]:
    """``answers`` and ``results`` as the README in the folder describes them."""
    responses: dict[str, Any] = json.loads((CAPTURES / "responses.json").read_text("utf-8"))
    return responses


@functools.cache
def load_spawned() -> list[Spawned]:
    """What processes started by mod_fcgid and by lighttpd found."""
    names = [field.name for field in attrs.fields(Spawned)]
    entries = json.loads((CAPTURES / "spawned.json").read_text("utf-8"))
    return [Spawned(**{name: entry[name] for name in names}) for entry in entries]
