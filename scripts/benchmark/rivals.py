"""Starts those rivals that are libraries: ``python -m benchmark.rivals NAME APP SOCKET``."""

import importlib
import sys


def flup(app: str, path: str) -> None:
    """Serve with flup's threaded WSGI server; each kept connection takes one of its threads."""
    from flup.server.fcgi import WSGIServer  # type: ignore[import-not-found]  # noqa: PLC0415

    module = importlib.import_module(
        f"benchmark.apps.{'with_flask' if app == 'flask' else 'hello'}"
    )
    application = module.app if app == "flask" else module.wsgi
    WSGIServer(application, bindAddress=path, umask=0, maxThreads=200, maxSpare=64).run()


def fcgisgi(app: str, path: str) -> None:
    """Serve with fcgisgi on uvloop, the faster of the two loops that it runs on."""
    import asyncio  # noqa: PLC0415

    import uvloop  # type: ignore[import-not-found]  # noqa: PLC0415
    from fcgisgi import run_asgi_server  # type: ignore[import-not-found]  # noqa: PLC0415

    from .apps import hello  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_asgi_server(hello.asgi, bind_address=path))


if __name__ == "__main__":
    {"flup": flup, "fcgisgi": fcgisgi}[sys.argv[1]](sys.argv[2], sys.argv[3])
