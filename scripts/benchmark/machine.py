"""What the figures were measured on, and with which versions."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from .contenders import BUILT, find_program

__all__ = ["codec_of", "describe"]

_PACKAGES = (
    "trio", "uvicorn", "uvloop", "httptools", "granian", "gunicorn", "hypercorn", "uWSGI",
    "fcgisgi", "flup", "starlette", "flask",
)  # fmt: skip
_PROGRAMS = {
    "nginx": (("nginx",), "-v"),
    "PHP-FPM": (("php-fpm", "php-fpm8.2", "php-fpm8.4"), "-v"),
    "Go": (("go",), "version"),
    "strace": (("strace",), "--version"),
}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def codec_of(environment: dict[str, str]) -> str:
    """What codec a trifcgi with these variables runs on; in a process of its own."""
    code = (
        "from trifcgi._compiled import is_compiled\n"
        "print('compiled' if is_compiled() else 'pure Python')"
    )
    told = subprocess.run(
        [sys.executable, "-P", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return told.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for package in ("trifcgi", *_PACKAGES):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, (programs, option) in _PROGRAMS.items():
        program = find_program(*programs)
        if program is not None:
            told = subprocess.run([program, option], check=False, capture_output=True, text=True)
            found[name] = (told.stdout + told.stderr).strip().partition("\n")[0]
    return found


def describe() -> dict[str, object]:
    """The machine and the versions, fit for JSON."""
    pure = BUILT / "pure"
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "codec": codec_of({}),
        "pure_codec": codec_of({"PYTHONPATH": str(pure)}) if pure.exists() else None,
        "versions": _versions(),
    }


if __name__ == "__main__":
    print(json.dumps(describe(), indent=1))
