"""The unit file that the documentation hands out."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import TRIFCGI

UNIT = Path(__file__).parents[2] / "docs" / "howto" / "trifcgi.service"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"),
]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a trifcgi that is there."""
    path = tmp_path / "shop.service"
    path.write_text(UNIT.read_text().replace("/srv/shop/.venv/bin/trifcgi", TRIFCGI))
    return path


def analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_systemd_finds_no_fault_with_it(unit: Path) -> None:
    assert analyze("verify", unit) == ""


def test_it_is_as_locked_up_as_the_documentation_says(unit: Path) -> None:
    page = (UNIT.parent / "systemd.md").read_text()
    assert "gives it 1.1," in page
    # In tenths; newer versions of systemd look at more.
    analyze("security", "--offline=yes", "--no-pager", "--threshold=15", unit)
