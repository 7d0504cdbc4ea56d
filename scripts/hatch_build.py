"""Compiles the codec with mypyc while a wheel is built (a build hook of hatchling).

The same Python files are the codec with and without a compiler: what is compiled lies beside
them in the wheel, and Python prefers it. An editable installation stays pure Python, so
that what runs is what was just edited.

``TRIFCGI_PURE_PYTHON`` decides when it is set: ``1`` builds the pure Python wheel, ``0`` fails
where the codec cannot be compiled. Without it such a build falls back to pure Python.
"""

import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

GROUP = "trifcgi._codec"  # the shared library that holds the code of all compiled modules


class CompiledCodec(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel. ``modules`` and ``requires`` stand in pyproject.toml.

    Attributes:
        built: where the compiled files lie until they are in the wheel.
    """

    built: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """What has to be installed to build here: nothing for the pure Python wheel."""
        return [] if obstacle() else list(self.config["requires"])

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell hatchling what to pack; fall back to pure Python where allowed."""
        if version == "editable":
            return
        reason = obstacle()
        if reason is None:
            self.built = tempfile.TemporaryDirectory(prefix="trifcgi-codec-")
            try:
                libraries = compile_modules(self.config["modules"], Path(self.built.name))
            # mypyc ends the process with SystemExit when it finds a mistake.
            except (Exception, SystemExit) as error:  # noqa: BLE001 (nothing may stop a build)
                reason = f"compiling failed: {error}"
            else:
                build_data["pure_python"] = False
                build_data["infer_tag"] = True
                build_data["force_include"].update(libraries)
                return
        if os.environ.get("TRIFCGI_PURE_PYTHON") == "0":
            raise RuntimeError(f"The codec has to be compiled (TRIFCGI_PURE_PYTHON=0): {reason}")
        self.app.display_warning(f"The codec stays pure Python: {reason}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled: the wheel has it."""
        if self.built is not None:
            self.built.cleanup()


def obstacle() -> str | None:
    """Why the codec cannot or shall not be compiled here; ``None`` when it can be tried."""
    if os.environ.get("TRIFCGI_PURE_PYTHON") == "1":
        return "TRIFCGI_PURE_PYTHON=1 is set"
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "mypyc compiles for CPython with its global lock only"
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    compiler = shlex.split(command)[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler {compiler!r}"
    header = Path(sysconfig.get_path("include"), "Python.h")
    return None if header.exists() else f"there is no {header}"


def compile_modules(modules: list[str], directory: Path) -> dict[str, str]:
    """Compile into a directory.

    Args:
        modules: paths of Python files below the current directory.
        directory: an empty one; nothing is written elsewhere.

    Returns:
        The shared libraries: each one's path, and its path in the wheel.
    """
    # Installed only where there is a compiler. mypyc imports setuptools, and it has to come
    # ahead of the distutils that it replaces.
    from mypyc.build import mypycify  # noqa: PLC0415
    from setuptools import Distribution  # noqa: PLC0415
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    # The rest of trifcgi is followed, for TYPE_CHECKING's sake, but trio is not there.
    options = ["--strict", "--follow-imports=silent", "--config-file="]
    extensions = mypycify(
        [*options, f"--cache-dir={directory / 'cache'}", *modules],
        opt_level="3",
        debug_level="0",
        target_dir=str(directory / "c"),
        group_name=GROUP,
    )
    for extension in extensions:
        # mypyc asks for -Werror, and every new compiler has new things to warn of. Its modules lie
        # in one library and find each other through capsules: hidden, its functions need no
        # detour for one another, and some no call.
        extension.extra_compile_args += [
            "-Wno-error", "-fvisibility=hidden", "-fno-semantic-interposition", "-fno-plt",
        ]  # fmt: skip
    # Not setup(): that reads pyproject.toml, which is hatchling's here.
    command = build_ext(Distribution({"name": "trifcgi", "ext_modules": extensions}))
    command.build_lib = str(directory / "lib")
    command.build_temp = str(directory / "objects")
    command.parallel = os.cpu_count()
    command.ensure_finalized()
    command.run()
    root = directory / "lib"
    return {str(path): str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
