"""Applications that the tests serve: written into a test's own directory."""

from pathlib import Path

__all__ = ["write_apps"]

_HELLO = '''
async def app(request):
    """Say hello, and tell what arrived."""
    body = b"".join([chunk async for chunk in request.stdin])
    path = request.params["PATH_INFO"]
    await request.stderr.send_all(b"a note\\n")
    await request.stdout.send_all(b"Content-Type: text/plain\\r\\n\\r\\nhello " + path.encode())
    if body:
        await request.stdout.send_all(b": " + body)
    await request.stdout.send_all(b"\\n")
    return int(request.params.get("STATUS", "0"))
'''

_SLOW = """
import sys
import trio

async def app(request):
    print("at work", file=sys.stderr, flush=True)
    try:
        await trio.sleep(float(request.params["SECONDS"]))
        await request.stdout.send_all(b"Content-Type: text/plain\\r\\n\\r\\ndone\\n")
    finally:
        print("cleaned up", file=sys.stderr, flush=True)
"""

_LIFESPAN = """
import os
import sys
import trio

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"served"})
        return
    await receive()
    print("starting", file=sys.stderr, flush=True)
    how = os.environ["STARTUP"]
    if how == "hang":
        await trio.sleep_forever()
    if how == "fail":
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return
    if how == "exit":
        sys.exit("missing FOO")
    await send({"type": "lifespan.startup.complete"})
    if how == "exit while serving":
        sys.exit(5)
    await receive()
    print("shutting down", file=sys.stderr, flush=True)
    if how == "exit in the end":
        sys.exit(4)
    await send({"type": "lifespan.shutdown.complete"})
"""


_OWN_LIFESPAN = """
import os
from contextlib import asynccontextmanager


class App:
    @asynccontextmanager
    async def lifespan(self):
        if os.environ["FAIL"] == "startup":
            raise RuntimeError("no database")
        if os.environ["FAIL"] == "exit":
            raise SystemExit("missing FOO")
        yield
        if os.environ["FAIL"] == "shutdown":
            raise RuntimeError("no way out")

    async def __call__(self, request):
        raise AssertionError


app = App()
"""


def write_apps(directory: Path) -> None:
    """Write them all as modules."""
    files = {
        "hello.py": _HELLO,
        "slow.py": _SLOW,
        "lifespan.py": _LIFESPAN,
        "own_lifespan.py": _OWN_LIFESPAN,
        "broken.py": "import logging\n\n\ndef start():\n    return 1 / 0\n\n\nstart()\n",
        "plain.py": (
            "def application(environ, start_response):\n"
            '    start_response("200 OK", [("Content-Type", "text/plain")])\n'
            '    return [environ["PATH_INFO"].encode()]\n'
        ),
        "quiet.py": (
            "import logging.config\n"
            'logging.config.dictConfig({"version": 1})\n'
            "async def app(request):\n"
            '    await request.stdout.send_all(b"Content-Type: text/plain\\r\\n\\r\\n")\n'
        ),
    }
    for name, content in files.items():
        (directory / name).write_text(content)
