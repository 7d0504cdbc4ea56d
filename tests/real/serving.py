"""``trifcgi run``, as users start it."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.real.processes import PrivateProcess

__all__ = ["PROJECT", "TRIFCGI", "Serving", "write_launcher"]

PROJECT = Path(__file__).parents[2]
TRIFCGI = str(Path(sys.executable).parent / "trifcgi")

_READY = re.compile(r"listening on ([^\s\"]+)")  # in text, and in JSON


class Serving(PrivateProcess):
    """A running ``trifcgi run``."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        log: Path,
        directory: Path = PROJECT,
        program: Sequence[str] = (TRIFCGI,),
    ) -> None:
        super().__init__(name, [*program, "run", *arguments], log=log, directory=directory)

    def wait_addresses(self, count: int = 1) -> list[str]:
        """The addresses that it says it listens on, once there are so many."""
        return _READY.findall(self.wait_log("listening on", count))

    def finish(self) -> None:
        """Stop it as an operator does; it has to end by itself, cleanly."""
        status = self.stop()
        assert status == 0, f"{self.name} ended with status {status}:\n{self.read_log()}"


def write_launcher(path: Path, app: str) -> None:
    """A program without arguments, such as mod_fcgid wants, that serves descriptor 0."""
    path.write_text(
        "#!/bin/sh\n"
        # It may run as another user, whose bytecode must not land among the sources.
        "export PYTHONDONTWRITEBYTECODE=1\n"
        f"cd {PROJECT} && exec {TRIFCGI} run {app}\n"
    )
    path.chmod(0o755)
