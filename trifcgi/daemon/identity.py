"""Becoming another user, once what needs root has been done."""

import grp
import os
import pwd
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import attrs

from trifcgi.errors import ConfigurationError

__all__ = ["Identity"]


@attrs.frozen
class Identity:
    """A user, a group, and the further groups that come with the user.

    Attributes:
        uid: the user's ID.
        gid: the group's ID.
        groups: supplementary group IDs.
        environment: what login would set: ``HOME``, ``USER``, ``LOGNAME``; empty for a user
            that is known by number only.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    environment: dict[str, str]

    @classmethod
    def find(cls, user: str | None, group: str | None) -> Self:
        """Look up names or numbers.

        Args:
            user: ``None`` keeps the user that runs this process, and its groups.
            group: ``None`` takes the user's own.

        Raises:
            ConfigurationError: there is no such user or group; a user known by number only
                comes without a group.
        """
        found = None if user is None else _user(user)
        uid = os.geteuid() if user is None else int(user) if found is None else found.pw_uid
        if group is not None:
            gid = _group(group)
        elif found is not None:
            gid = found.pw_gid
        elif user is None:
            gid = os.getegid()
        else:
            raise ConfigurationError(
                f"there is no user with the ID {user}, so its group is not known: add --group"
            )
        if found is not None:
            return cls(
                uid,
                gid,
                tuple(os.getgrouplist(found.pw_name, gid)),
                {"HOME": found.pw_dir, "USER": found.pw_name, "LOGNAME": found.pw_name},
            )
        return cls(uid, gid, tuple(os.getgroups()) if user is None else (gid,), {})

    @property
    def is_current(self) -> bool:
        """Whether this process has that user and group already."""
        return (os.getresuid(), os.getresgid()) == ((self.uid,) * 3, (self.gid,) * 3)

    def check(self) -> None:
        """See whether :meth:`assume` would do.

        Raises:
            ConfigurationError: this process may not become somebody else.
        """
        if not self.is_current and os.geteuid() != 0:
            raise ConfigurationError(
                "only root can become another user or group: leave out --user and --group,"
                " or start it as root"
            )

    def own(self, sockets: Iterable[str | os.PathLike[str]]) -> None:
        """Give Unix sockets to this user and group, whose mode then says who may connect.

        Raises:
            ConfigurationError: they are not ours to give.
        """
        for path in sockets:
            try:
                os.chown(path, self.uid, self.gid, follow_symlinks=False)
            except OSError as error:
                raise ConfigurationError(
                    f"the socket {Path(path)} cannot be given to its user: {error.strerror}"
                ) from error

    def assume(self) -> None:
        """Become that user for good; nothing happens where this process is it already.

        Raises:
            ConfigurationError: this process may not.
            RuntimeError: the system said yes, and it could be undone.
        """
        self.check()
        if self.is_current:
            return
        os.environ.update(self.environment)
        # In this order: who is no longer root cannot change groups.
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        if self.uid and _could_return():
            raise RuntimeError("root was left, and could be had back")


def _could_return() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        pass
    if not name.isdigit():
        raise ConfigurationError(f"there is no user {name!r}")
    try:
        return pwd.getpwuid(int(name))
    except (KeyError, OverflowError):
        return None


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if not name.isdigit():
            raise ConfigurationError(f"there is no group {name!r}") from None
        return int(name)
