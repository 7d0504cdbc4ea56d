"""A user's code under mypy's strictest settings, with trifcgi as an installed package."""

import subprocess
import sys
from pathlib import Path

import pytest

import trifcgi

HERE = Path(__file__).parent


@pytest.mark.real
@pytest.mark.parametrize("program", ["embedding.py", "mistakes.py"])
def test_a_users_program_type_checks(program: str) -> None:
    root = Path(trifcgi.__file__).parents[1]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--cache-dir",
            str(root / ".mypy_cache" / "user"),
            str(HERE / program),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(trifcgi.__file__).parent / "py.typed").exists()
