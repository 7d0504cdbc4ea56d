"""The site as a Flask app."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator

from flask import Flask, Response, jsonify, request

from tests.real.apps import CUT_ANNOUNCED, CUT_SENT, PIECE, REPLIES, pattern_pieces

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]


class Story:
    """What is known of the request with one key."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.released = threading.Event()
        self.ended = threading.Event()
        self.outcome = ""

    def end(self, outcome: str) -> None:
        self.outcome = outcome
        self.ended.set()


stories: defaultdict[str, Story] = defaultdict(Story)
app = Flask(__name__)
app.config["PROPAGATE_EXCEPTIONS"] = True  # the server's answer is wanted, not Flask's


def this_story() -> Story:
    return stories[request.args["key"]]


@app.route("/echo/<path:rest>", methods=METHODS)
def echo(rest: str) -> Response:
    environ = request.environ
    headers = [
        [name[5:].lower().replace("_", "-"), value]
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    headers += [
        [name.lower().replace("_", "-"), environ[name]]
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH")
        if name in environ
    ]
    whole = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
    return jsonify(
        {
            "method": environ["REQUEST_METHOD"],
            "path": whole.encode("latin-1").decode(),
            "root_path": environ["SCRIPT_NAME"],
            "query": environ["QUERY_STRING"],
            "scheme": environ["wsgi.url_scheme"],
            "client": [environ["REMOTE_ADDR"], int(environ["REMOTE_PORT"])],
            "server": [environ["SERVER_NAME"], int(environ["SERVER_PORT"])],
            "headers": headers,
        }
    )


@app.route("/reply/<name>")
def reply(name: str) -> Response:
    status, headers, body = REPLIES[name]
    response = Response(body, status)
    response.headers.clear()
    for header, value in headers:
        response.headers.add(header, value)
    return response


@app.route("/raise")
def fail() -> Response:
    raise RuntimeError("raised before the response")


@app.route("/raise-late")
def fail_late() -> Response:
    def body() -> Iterator[bytes]:
        yield b"c" * CUT_SENT
        raise RuntimeError("raised after the response began")

    headers = {"content-length": str(CUT_ANNOUNCED)} if "sized" in request.args else {}
    return Response(body(), headers=headers)


@app.route("/download")
def download() -> Response:
    size = int(request.args["size"])
    headers = {} if "pieces" in request.args else {"content-length": str(size)}
    return Response(pattern_pieces(size), headers=headers, mimetype="application/octet-stream")


@app.route("/upload", methods=["POST", "PUT"])
def upload() -> str:
    length, digest = 0, hashlib.sha256()
    while piece := request.stream.read(PIECE):
        length += len(piece)
        digest.update(piece)
    return f"{length} {digest.hexdigest()}"


@app.route("/events")
def events() -> Response:
    story, cut = this_story(), "cut" in request.args

    def body() -> Iterator[bytes]:
        yield b"data: first\n\n"
        story.released.wait(30)
        if cut:
            raise RuntimeError("raised between two events")
        yield b"data: second\n\n"

    return Response(body(), mimetype="text/event-stream", headers={"x-accel-buffering": "no"})


@app.route("/release")
def release() -> str:
    this_story().released.set()
    return "released\n"


@app.route("/endless")
def endless() -> Response:
    story = this_story()

    def body() -> Iterator[bytes]:
        story.begun.set()
        try:
            while not story.released.wait(0.02):
                yield b"data: again\n\n"
        finally:
            story.end("gone")

    return Response(body(), mimetype="text/event-stream", headers={"x-accel-buffering": "no"})


@app.route("/slurp", methods=["POST"])
def slurp() -> str:
    story = this_story()
    outcome = "disconnected"
    try:
        while request.stream.read(PIECE):
            story.begun.set()
        outcome = "complete"
    finally:
        story.end(outcome)
    return "complete\n"


@app.route("/begun")
def begun() -> str:
    return "begun" if this_story().begun.wait(10) else "late"


@app.route("/outcome")
def outcome() -> str:
    story = this_story()
    story.ended.wait(10)
    return story.outcome or "runs on"


@app.route("/health")
def health() -> str:
    return "well\n"
