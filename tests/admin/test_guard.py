"""The file that the token is in."""

from pathlib import Path

import pytest

from trifcgi import ConfigurationError
from trifcgi.admin.guard import read_token


def _file(directory: Path, content: bytes, mode: int = 0o600) -> str:
    path = directory / "token"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("content", [b"0123456789abcdef\n", b"  0123456789abcdef \r\nsecond\n"])
def test_the_token_is_the_first_line(tmp_path: Path, content: bytes) -> None:
    assert read_token(_file(tmp_path, content)) == "0123456789abcdef"


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"short\n", b"0123456789abcde", b"0123456789 abcdef", b"0123456789abcd\xc3\xa9"],
)
def test_what_can_be_guessed_or_not_be_sent_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigurationError, match="16 or more ASCII characters"):
        read_token(_file(tmp_path, content))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no-file cannot be read: No such file"):
        read_token(str(tmp_path / "no-file"))
    with pytest.raises(ConfigurationError, match="it is not UTF-8"):
        read_token(_file(tmp_path, b"\xff" * 20))


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True),
                                              (0o620, True)])  # fmt: skip
def test_others_who_can_read_it_are_warned_of(
    tmp_path: Path, mode: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "trifcgi"):
        read_token(_file(tmp_path, b"0123456789abcdef", mode))
    assert ("can be read or changed by others" in caplog.text) == warned
