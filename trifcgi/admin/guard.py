"""Who may use the control server.

- With a token every request but the one for the page, which has nothing in it, must carry it as
  ``Authorization: Bearer``. Without one, only what can open the Unix socket or reach the
  loopback interface gets here at all.
- A browser on that machine can reach the loopback interface too, on behalf of any site that it
  visits. A change that another site asks for is known by ``Sec-Fetch-Site`` or ``Origin``, which
  browsers add to every POST and scripts cannot set (Fetch Standard; W3C Fetch Metadata).
- A site whose name an attacker has pointed at 127.0.0.1 is of the same origin as itself. Where no
  token is asked for, a direct request must thus name the server by address, or as ``localhost``.
"""

import hmac
import ipaddress
import logging
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from trifcgi.errors import ConfigurationError

__all__ = ["Guard", "read_token"]

_log: Final = logging.getLogger("trifcgi.admin")

_SHORTEST: Final = 16
"""Characters of a token: what can be guessed is no protection."""

_OWN_SITE: Final = frozenset({"same-origin", "none"})


def read_token(path: str, *, name: str | None = None) -> str:
    """Read the token from its file: the first line, without spaces around it.

    Args:
        path: the file.
        name: what messages call it; its path by default.

    Raises:
        ConfigurationError: it cannot be read, or is too short or no token.
    """
    name = path if name is None else name
    try:
        text = Path(path).read_text("utf-8")
        mode = Path(path).stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"the token file {name} cannot be read: {reason}") from error
    token = text.partition("\n")[0].strip()
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(
            f"the token file {name} must hold a token of {_SHORTEST} or more ASCII characters"
            " without spaces, such as openssl rand -hex 32 makes"
        )
    if mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH) & ~stat.S_IRGRP:
        _log.warning("the token file %s can be read or changed by others: chmod 600 it", name)
    return token


class Guard:
    """Decides on one request after the other; it keeps nothing of them.

    Args:
        token: what has to be presented; ``None``: nothing.
    """

    def __init__(self, token: str | None = None) -> None:
        self._token = None if token is None else token.encode()

    def refusal(
        self, params: Mapping[str, str], *, changes: bool, direct: bool
    ) -> tuple[int, str] | None:
        """Look at a request.

        Args:
            params: its params.
            changes: whether it is to change something.
            direct: whether it came over TCP without a front end.

        Returns:
            ``None``, or the HTTP status and a sentence.
        """
        if self._token is not None:
            given = params.get("HTTP_AUTHORIZATION", "")
            scheme, _, presented = given.partition(" ")
            known = presented.strip().encode("utf-8", "surrogateescape")
            if scheme.lower() != "bearer" or not hmac.compare_digest(known, self._token):
                why = "is needed" if not given else "is another one"
                return 401, f"The control server's token {why}: Authorization: Bearer TOKEN."
        elif direct and not _names_this_machine(params.get("HTTP_HOST", "")):
            return 403, "Without a token, name this server by its address or as localhost."
        if changes and not _same_site(params):
            return 403, "Changes are not made for pages of another site."
        return None


def _names_this_machine(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if not name or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same_site(params: Mapping[str, str]) -> bool:
    site = params.get("HTTP_SEC_FETCH_SITE")
    if site:
        return site.lower() in _OWN_SITE
    origin = params.get("HTTP_ORIGIN")
    if not origin:
        return True  # no browser: all that are in use send one of the two with a POST
    try:
        return urlsplit(origin).netloc.lower() == params.get("HTTP_HOST", "").lower() != ""
    except ValueError:
        return False
