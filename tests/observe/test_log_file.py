"""The file under the access log: batches, full disks, slow readers, rotation."""

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trifcgi.observe.log_file import STDOUT, LogFile

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe, and its reading end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


def drain(reader: int) -> bytes:
    pieces = []
    try:
        while piece := os.read(reader, 1 << 20):
            pieces.append(piece)
    except BlockingIOError:
        pass
    return b"".join(pieces)


def test_lines_are_written_together(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path))
    file.add(b"one\n")
    file.add(b"two\n")
    assert path.read_bytes() == b""
    file.flush()
    assert path.read_bytes() == b"one\ntwo\n"
    assert file.empty
    file.close()


def test_many_lines_do_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = LogFile(str(path))
    for _ in range(700):
        file.add(LINE)
    assert path.stat().st_size >= 64 * 1024
    file.close()
    assert path.stat().st_size == 70_000


def test_an_old_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    file = LogFile(str(path))
    file.add(b"new\n")
    file.close()
    assert path.read_bytes() == b"old\nnew\n"


def test_reopening_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path, moved = tmp_path / "log", tmp_path / "log.1"
    file = LogFile(str(path))
    file.add(b"before\n")
    path.rename(moved)
    file.reopen()
    file.add(b"after\n")
    file.close()
    assert (moved.read_bytes(), path.read_bytes()) == (b"before\n", b"after\n")


def test_a_failed_reopening_keeps_the_old_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    path = directory / "log"
    file = LogFile(str(path))
    directory.rename(tmp_path / "elsewhere")
    file.reopen()
    assert "cannot be reopened: No such file or directory" in caplog.text
    file.add(b"still\n")
    file.close()
    assert (tmp_path / "elsewhere" / "log").read_bytes() == b"still\n"


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    file = LogFile(str(tmp_path / "log"))
    file.reopen()
    file.close()
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_full_disk_is_told_once_and_lines_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = LogFile("/dev/full")
    for _ in range(3):
        file.add(LINE)
        file.add(LINE)
        file.flush()
    file.close()
    assert file.lost == 6
    assert [record.message for record in caplog.records] == [
        "/dev/full cannot be written: No space left on device; lines are lost until it can be"
    ]


def test_recovery_is_told_with_the_number_of_lines_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    path.symlink_to("/dev/full")
    file = LogFile(str(path))
    file.add(LINE)
    file.flush()
    path.unlink()
    file.reopen()
    file.add(b"again\n")
    file.close()
    assert path.read_bytes() == b"again\n"
    assert caplog.messages[-1] == f"{path} can be written again; lines lost: 1"


class TestPipes:
    def test_a_reader_that_does_not_read_makes_nobody_wait(
        self, fifo: tuple[Path, int], caplog: pytest.LogCaptureFixture
    ) -> None:
        path, reader = fifo
        file = LogFile(str(path))
        lines = 20_000  # 2 MB: more than a pipe and the buffer hold
        for _ in range(lines):
            file.add(LINE)
        file.flush()
        assert 0 < file.lost < lines
        assert "cannot be written: its reader is too slow" in caplog.text
        file.close()
        read = drain(reader)
        whole = [line for line in read.split(b"\n") if line]
        # The last line may have been cut by the end of the pipe.
        assert all(line + b"\n" == LINE for line in whole[:-1])

    def test_a_line_that_was_cut_gets_an_end_of_its_own(self, fifo: tuple[Path, int]) -> None:
        path, reader = fifo
        file = LogFile(str(path))
        for _ in range(20_000):
            file.add(LINE)
        file.flush()
        read = drain(reader)
        file.add(b"after the gap\n")
        while not file.empty:
            file.flush()
            read += drain(reader)
        file.close()
        assert read.endswith(b"\nafter the gap\n")
        assert len([line for line in read.split(b"\n") if line and line + b"\n" != LINE]) <= 2

    def test_a_reader_that_is_gone_costs_the_lines_only(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        file = LogFile(str(path))
        os.close(reader)
        file.add(LINE)
        file.close()
        assert file.lost == 1
        assert "Broken pipe" in caplog.text

    def test_stdout_keeps_its_flags_and_stays_open(
        self, fifo: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, reader = fifo
        saved = os.dup(1)
        writer = os.open(path, os.O_WRONLY)
        os.dup2(writer, 1)
        try:
            file = LogFile(STDOUT)
            file.add(LINE)
            file.reopen()
            file.close()
            assert not fcntl.fcntl(1, fcntl.F_GETFL) & os.O_NONBLOCK
        finally:
            os.dup2(saved, 1)
            os.close(saved)
            os.close(writer)
        assert drain(reader) == LINE


def test_a_file_that_cannot_be_opened_is_the_callers_to_tell(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LogFile(str(tmp_path / "none" / "log"))


def test_nothing_is_said_while_all_is_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        file = LogFile(str(tmp_path / "log"))
        file.add(LINE)
        file.close()
    assert not caplog.records
