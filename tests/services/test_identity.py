"""Users and groups: found by name or number, checked, and become for good."""

import os
import pwd
import socket
from pathlib import Path

import pytest

from tests.services.processes import run_python
from trifcgi.daemon import Identity
from trifcgi.errors import ConfigurationError

NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_a_user_comes_with_its_group_its_further_groups_and_its_home() -> None:
    found = Identity.find("nobody", None)
    assert (found.uid, found.gid) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert found.groups == tuple(os.getgrouplist("nobody", NOBODY.pw_gid))
    assert found.environment == {"HOME": NOBODY.pw_dir, "USER": "nobody", "LOGNAME": "nobody"}
    assert Identity.find(str(NOBODY.pw_uid), None) == found


def test_a_group_replaces_the_users_own() -> None:
    found = Identity.find("nobody", "daemon")
    assert (found.gid, found.groups) == (1, (1,))
    assert Identity.find("nobody", "1") == found


def test_a_group_alone_keeps_the_user() -> None:
    found = Identity.find(None, "daemon")
    assert (found.uid, found.gid, found.groups) == (os.geteuid(), 1, tuple(os.getgroups()))


def test_a_user_without_a_name_needs_a_group() -> None:
    assert Identity.find("54321", "1").groups == (1,)
    with pytest.raises(ConfigurationError, match=r"no user with the ID 54321, .* add --group"):
        Identity.find("54321", None)


@pytest.mark.parametrize(("user", "group", "message"), [
    ("no-such-one", None, "there is no user 'no-such-one'"),
    ("nobody", "no-such-one", "there is no group 'no-such-one'"),
])  # fmt: skip
def test_unknown_names_are_mistakes(user: str, group: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Identity.find(user, group)


def test_who_one_is_already_needs_no_root() -> None:
    mine = Identity(os.geteuid(), os.getegid(), (), {})
    assert mine.is_current
    mine.assume()


@pytest.mark.real
@needs_root
def test_root_becomes_somebody_else_for_good(tmp_path: Path) -> None:
    code = """
import os
from trifcgi.daemon import Identity
Identity.find("nobody", "daemon").assume()
print(os.getresuid(), os.getresgid(), os.getgroups(), os.environ["USER"])
try:
    os.setuid(0)
except PermissionError:
    print("for good")
try:
    Identity.find("root", None).assume()
except Exception as error:
    print(error)
"""
    uid = NOBODY.pw_uid
    assert run_python(code).stdout.decode().splitlines() == [
        f"({uid}, {uid}, {uid}) (1, 1, 1) [1] nobody",
        "for good",
        (
            "only root can become another user or group: leave out --user and --group, "
            "or start it as root"
        ),
    ]


@pytest.mark.real
@needs_root
def test_unix_sockets_are_given_to_the_user(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        Identity.find("nobody", "daemon").own([path])
        assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY.pw_uid, 1)
    with pytest.raises(ConfigurationError, match="cannot be given to its user: No such file"):
        Identity.find("nobody", "daemon").own([tmp_path / "absent"])
