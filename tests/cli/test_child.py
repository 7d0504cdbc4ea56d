"""The interpreter of worker processes."""

import json
import os
import subprocess
import sys

import pytest

# Whether the directory it is started in is left out (-P) depends on how it is started.
_SHOW = """
import json, sys
flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if name[0].islower()}
flags = {name: value for name, value in flags.items() if isinstance(value, int)}
flags.pop("safe_path")
print(json.dumps([flags, sys.warnoptions, sys._xoptions]))
"""
_SHOW_COMMAND = (
    "import json; from trifcgi.child import interpreter; print(json.dumps(interpreter()))"
)


def _said(command: list[str]) -> list[object]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    said = subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)
    found: list[object] = json.loads(said.stdout)
    return found


@pytest.mark.real
@pytest.mark.parametrize(
    "options",
    [[], ["-s", "-bb", "-B"], ["-OO"], ["-Xdev", "-Wignore::UserWarning"], ["-E", "-P"], ["-I"]],
    ids=" ".join,
)
def test_a_worker_has_the_options_of_its_supervisor(options: list[str]) -> None:
    mine = [sys.executable, *options]
    command = [str(word) for word in _said([*mine, "-c", _SHOW_COMMAND])]
    assert _said([*command, "-c", _SHOW]) == _said([*mine, "-c", _SHOW])
