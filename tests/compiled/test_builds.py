"""What gets built where the codec is not compiled: always something, and the same code.

That it does get compiled where it can be is shown by scripts/test, which has the compiled wheel
built and runs the tests on it.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from tests.compiled.codec import ROOT, module_files

COMPILED = (".so", ".c", ".h", ".o")


def hatchling(
    target: str, into: Path, *, root: Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the build backend as pip does once it has fetched what the build requires."""
    inherited = {name: os.environ[name] for name in os.environ if name != "TRIFCGI_PURE_PYTHON"}
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into)],
        check=False,
        cwd=root,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def built(result: subprocess.CompletedProcess[str], into: Path) -> Path:
    assert result.returncode == 0, result.stderr
    (file,) = into.iterdir()
    return file


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def assert_pure(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    packed = names(wheel)
    assert set(module_files()) <= set(packed)
    assert "trifcgi/py.typed" in packed
    assert not [name for name in packed if name.endswith(COMPILED)]
    assert {name.split("/")[0] for name in packed if ".dist-info/" not in name} == {"trifcgi"}


def test_pure_python_can_be_asked_for(tmp_path: Path) -> None:
    result = hatchling("wheel", tmp_path, TRIFCGI_PURE_PYTHON="1")
    assert_pure(built(result, tmp_path))
    assert "TRIFCGI_PURE_PYTHON=1" in result.stderr


def test_without_a_compiler_it_is_pure_python(tmp_path: Path) -> None:
    result = hatchling("wheel", tmp_path, CC="/nonexistent/cc")
    assert_pure(built(result, tmp_path))
    assert "no C compiler '/nonexistent/cc'" in result.stderr


def test_a_compilation_that_fails_leaves_pure_python(tmp_path: Path) -> None:
    """mypyc ends the process where it finds a mistake: the build goes on."""
    stand_ins = tmp_path / "stand-ins"
    for module, code in {
        "mypyc/build.py": "def mypycify(*_, **__): raise SystemExit('a mistake')",
        "setuptools/__init__.py": "Distribution = object",
        "setuptools/command/build_ext.py": "build_ext = object",
    }.items():
        file = stand_ins / module
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    into = tmp_path / "wheel"
    result = hatchling("wheel", into, CC=sys.executable, PYTHONPATH=str(stand_ins))
    assert_pure(built(result, into))
    assert "The codec stays pure Python" in result.stderr


def test_a_build_that_has_to_compile_fails_without_a_compiler(tmp_path: Path) -> None:
    result = hatchling("wheel", tmp_path, CC="/nonexistent/cc", TRIFCGI_PURE_PYTHON="0")
    assert result.returncode != 0
    assert "no C compiler '/nonexistent/cc'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_editable_installation_is_pure_python(tmp_path: Path) -> None:
    wheel = built(hatchling("wheel:editable", tmp_path, CC=sys.executable), tmp_path)
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in names(wheel) if name.endswith(COMPILED)]


def test_the_source_archive_builds_the_same_wheel(tmp_path: Path) -> None:
    source = built(hatchling("sdist", tmp_path / "sdist"), tmp_path / "sdist")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (root,) = (tmp_path / "unpacked").iterdir()
    assert (root / "scripts" / "hatch_build.py").is_file()
    assert not [path for path in (root / "trifcgi").rglob("*") if path.suffix in COMPILED]
    again = tmp_path / "again"
    wheel = built(hatchling("wheel", again, root=root, TRIFCGI_PURE_PYTHON="1"), again)
    first = tmp_path / "first"
    assert_pure(wheel)
    direct = built(hatchling("wheel", first, TRIFCGI_PURE_PYTHON="1"), first)
    assert names(wheel) == names(direct)
