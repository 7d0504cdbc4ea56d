"""A PID file says which process it is, and keeps a second one out."""

import os
from pathlib import Path

import pytest

from tests.services.processes import run_python
from trifcgi.daemon import PidFile
from trifcgi.errors import ConfigurationError


def test_it_has_the_process_id_while_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"
        assert path.stat().st_mode & 0o777 == 0o644
    assert not path.exists()


def test_it_is_removed_although_the_directory_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with PidFile("pid"):
        monkeypatch.chdir("/")
        assert (tmp_path / "pid").exists()
    assert not (tmp_path / "pid").exists()


def test_a_second_one_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(path):
        message = rf"^process {os.getpid()} is running with the PID file {path}: stop it or name"
        with pytest.raises(ConfigurationError, match=message), PidFile(path):
            pass
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_stale_one_is_replaced_even_if_its_number_is_in_use_again(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    path.write_text(f"{os.getppid()}\n")
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"


@pytest.mark.real
def test_a_killed_process_leaves_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = """
import os, sys
from trifcgi.daemon import PidFile
with PidFile(sys.argv[1]):
    os.kill(os.getpid(), 9)
"""
    assert run_python(code, path).returncode == -9
    assert path.exists()
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_file_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "app.py"
    path.write_text("import this\n")
    with pytest.raises(ConfigurationError, match="holds something else"), PidFile(path):
        pass
    assert path.read_text() == "import this\n"


def test_other_kinds_of_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("fifo", "link", ".", "absent/pid"):
        with pytest.raises(ConfigurationError, match="the PID file"), PidFile(tmp_path / name):
            pass
    assert not (tmp_path / "target").exists()


def test_a_file_that_somebody_has_replaced_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(path):
        path.unlink()
        path.write_text("12345\n")
    assert path.read_text() == "12345\n"


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_is_emptied_where_it_cannot_be_removed_any_more(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    code = """
import os, sys
from trifcgi.daemon import PidFile
with PidFile(sys.argv[1]):
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
"""
    done = run_python(code, path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert path.read_text() == ""
    with PidFile(path):
        assert path.read_text() == f"{os.getpid()}\n"
