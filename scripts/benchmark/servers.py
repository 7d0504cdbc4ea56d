"""The contenders: how each is started, and how much processor time it has used."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["CONTENDERS", "Contender", "Running", "running", "running_nginx"]

_BIN = Path(sys.executable).parent


class Contender:
    """A server with an interface.

    Attributes:
        name: the server.
        interface: what the app is written against.
        protocol: ``fastcgi`` or ``http``.
    """

    def __init__(self, name: str, interface: str, protocol: str, command: Sequence[str]) -> None:
        self.name = name
        self.interface = interface
        self.protocol = protocol
        self.command = command

    def __str__(self) -> str:
        return f"{self.name} ({self.interface})"

    @property
    def slug(self) -> str:
        """Fit for a file name."""
        return f"{self.name}-{self.interface}".replace(" ", "-")

    def installed(self) -> bool:
        """Whether its command is there."""
        return Path(self.command[0]).exists()


def _trifcgi(interface: str) -> Contender:
    command = [str(_BIN / "trifcgi"), "run", f"benchmark.hello:{interface}", "--unix", "SOCKET"]
    return Contender("trifcgi", interface, "fastcgi", command)


def _rival(name: str, interface: str) -> Contender:
    return Contender(
        name, interface, "fastcgi", [sys.executable, "-m", "benchmark.rivals", name, "SOCKET"]
    )


CONTENDERS = (
    _trifcgi("handler"),
    _trifcgi("asgi"),
    _trifcgi("wsgi"),
    Contender(
        "uWSGI",
        "wsgi",
        "fastcgi",
        [
            str(_BIN / "uwsgi"),
            "--fastcgi-socket",
            "SOCKET",
            "--module",
            "benchmark.hello:wsgi",
            "--master",
            "--die-on-term",
            "--disable-logging",
            "--chmod-socket=666",
            "--listen",
            "64",
        ],
    ),
    _rival("flup", "wsgi"),
    _rival("fcgisgi", "asgi"),
    Contender(
        "uvicorn",
        "asgi",
        "http",
        [
            str(_BIN / "uvicorn"),
            "benchmark.hello:asgi",
            "--uds",
            "SOCKET",
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--no-access-log",
            "--log-level",
            "warning",
        ],
    ),
    Contender(
        "hypercorn trio",
        "asgi",
        "http",
        [
            str(_BIN / "hypercorn"),
            "--worker-class",
            "trio",
            "--bind",
            "unix:SOCKET",
            "benchmark.hello:asgi",
        ],
    ),
)


def _cpu_seconds(group: int) -> float:
    """Processor time that all processes of a group have used."""
    seconds = 0.0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group:
                    # The process's CPU clock (clock_getcpuclockid(3)): /proc counts in
                    # hundredths of a second only.
                    seconds += time.clock_gettime(~int(entry.name) << 3 | 2)
    return seconds


class Running:
    """A started process."""

    def __init__(self, name: str, command: Sequence[str], log: Path, cores: set[int]) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={
                    name: value
                    for name, value in os.environ.items()
                    if not name.startswith("TRIFCGI_")
                },
                start_new_session=True,
            )
        os.sched_setaffinity(self._popen.pid, cores)

    def cpu_seconds(self) -> float:
        """What it and its children have used so far."""
        return _cpu_seconds(self._popen.pid)

    def wait_for(self, address: str | tuple[str, int]) -> None:
        """Return once it takes connections.

        Raises:
            RuntimeError: it does not, in 20 seconds; the message has its log.
        """
        deadline = time.monotonic() + 20
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        while self._popen.poll() is None and time.monotonic() < deadline:
            with socket.socket(family) as probe, contextlib.suppress(OSError):
                probe.connect(address)
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"{self.name} does not serve:\n{self.log.read_text()}")

    def stop(self) -> None:
        """End it and its children."""
        self._popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, 9)
        self._popen.wait()


@contextlib.contextmanager
def running(contender: Contender, directory: Path, cores: set[int]) -> Iterator[Running]:
    """A contender that serves on its socket in that directory, on those cores."""
    path = str(directory / f"{contender.slug}.sock")
    command = [part.replace("SOCKET", path) for part in contender.command]
    server = Running(str(contender), command, directory / f"{contender.slug}.log", cores)
    server.wait_for(path)
    try:
        yield server
    finally:
        server.stop()


def _location(contender: Contender, directory: Path, port: int, params: Path) -> str:
    upstream = contender.slug.replace("-", "_")
    if contender.protocol == "fastcgi":
        inside = f"include {params}; fastcgi_keep_conn on; fastcgi_pass {upstream};"
    else:
        inside = f"proxy_http_version 1.1; proxy_set_header Connection ''; proxy_pass http://{upstream};"
    return (
        f"upstream {upstream} {{ server unix:{directory}/{contender.slug}.sock; keepalive 64; }}\n"
        f"server {{ listen 127.0.0.1:{port}; keepalive_requests 10000000;"
        f" location / {{ {inside} }} }}\n"
    )


@contextlib.contextmanager
def running_nginx(
    contenders: Sequence[Contender], directory: Path, cores: set[int]
) -> Iterator[dict[str, str]]:
    """One nginx before all contenders.

    Gives their addresses behind it by their slugs; none where there is no nginx.
    """
    binary = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if binary is None:
        yield {}
        return
    addresses = {}
    sites = ""
    for contender in contenders:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        addresses[contender.slug] = f"127.0.0.1:{port}"
        sites += _location(contender, directory, port, Path("/etc/nginx/fastcgi_params"))
    temporary = "".join(
        f"{module}_temp_path {directory}/{module};\n"
        for module in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    configuration.write_text(
        f"daemon off; {user} worker_processes 1; pid {directory}/nginx.pid;\n"
        f"events {{ worker_connections 1024; }}\n"
        f"http {{ access_log off;\n{temporary}{sites}}}\n"
    )
    log = directory / "nginx.log"
    log.touch()
    command = [binary, "-e", str(log), "-p", str(directory), "-c", str(configuration)]
    nginx = Running("nginx", command, log, cores)
    try:
        for address in addresses.values():
            nginx.wait_for(("127.0.0.1", int(address.rpartition(":")[2])))
        yield addresses
    finally:
        nginx.stop()
