"""Starts those rivals that are libraries: ``python -m benchmark.rivals NAME SOCKET``."""

import asyncio
import sys

from benchmark import hello


def flup(path: str) -> None:
    """Serve with flup's threaded WSGI server; each kept connection takes one of its threads."""
    from flup.server.fcgi import WSGIServer  # type: ignore[import-not-found]  # noqa: PLC0415

    WSGIServer(hello.wsgi, bindAddress=path, umask=0, maxThreads=200, maxSpare=64).run()


def fcgisgi(path: str) -> None:
    """Serve with fcgisgi on uvloop, the faster of the two loops that it runs on."""
    import uvloop  # type: ignore[import-not-found]  # noqa: PLC0415
    from fcgisgi import run_asgi_server  # type: ignore[import-not-found]  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_asgi_server(hello.asgi, bind_address=path))


if __name__ == "__main__":
    {"flup": flup, "fcgisgi": fcgisgi}[sys.argv[1]](sys.argv[2])
