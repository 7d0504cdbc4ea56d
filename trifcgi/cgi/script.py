"""Which file a front end wants run, in each front end's spelling, and the URL it has."""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from trifcgi.cgi.target import front_end_cut

__all__ = ["script_filename", "script_mount"]

# "proxy:fcgi://127.0.0.1:9000/srv/x.py"; "localhost" for a Unix socket, the member's name for
# a balancer.
_APACHE: Final = re.compile(rb"proxy:[^/]*//[^/]*")


def script_filename(pairs: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The file that the front end names, or ``None`` where it names none.

    - Apache's mod_proxy_fcgi puts ``proxy:fcgi://HOST/`` in front and escapes the path; both
      are undone. (``ProxyFCGIBackendType GENERIC`` has no prefix to tell it by and stays
      escaped.)
    - With ``nocanon`` Apache leaves the query at the end; it is taken off.
    - lighttpd's ``broken-scriptfilename`` appends PATH_INFO, or a slash where there is none;
      that is taken off.
    - nginx's stock ``fastcgi_params`` have no SCRIPT_FILENAME; DOCUMENT_ROOT and
      SCRIPT_NAME stand in for it, which is how its ``fastcgi.conf`` defines it.

    The path is what somebody says, no more: it may be relative, name nothing that exists,
    lie anywhere, or have path info behind the script's own name still (Apache's
    ProxyPassMatch, RewriteRule). Check it before use.
    """
    params = dict(pairs)
    filename = params.get(b"SCRIPT_FILENAME")
    script_name = params.get(b"SCRIPT_NAME", b"")
    if filename is None and script_name and params.get(b"DOCUMENT_ROOT"):
        filename = params[b"DOCUMENT_ROOT"].rstrip(b"/") + script_name
    if not filename or b"\0" in filename:
        return None
    query = params.get(b"QUERY_STRING")
    if query:
        filename = filename.removesuffix(b"?" + query)
    apache = _APACHE.match(filename)
    if apache is not None:
        filename = unquote_to_bytes(filename[apache.end() :])
    appended = params.get(b"PATH_INFO") or b"/"
    # Not without the script's own name ahead: "/x.py/x.py" has nothing appended to it.
    if script_name and filename.endswith(script_name + appended):
        filename = filename.removesuffix(appended)
    return None if not filename or b"\0" in filename else filename


def script_mount(pairs: Sequence[tuple[bytes, bytes]], behind: bytes = b"") -> str:
    """The URL prefix of a script: the mount that an app in it lives under.

    A front end that sends no PATH_INFO has the script's URL in SCRIPT_NAME, together with
    what follows it (Apache's ProxyPassMatch); one that names no script has it in PATH_INFO.

    Args:
        pairs: the params as they came.
        behind: what :func:`script_filename` still had behind the file that exists, ``/x/y`` of
            ``/srv/a.py/x/y``.

    Returns:
        A mount for :class:`~trifcgi.cgi.Meaning`, with surrogateescape for bytes that are no
        UTF-8.
    """
    params = dict(pairs)
    script_name, path_info = front_end_cut(
        params.get(b"SCRIPT_NAME"), params.get(b"PATH_INFO"), params.get(b"REQUEST_URI")
    )
    mount = script_name or path_info
    if behind and (script_name + path_info).endswith(behind):
        mount = (script_name + path_info).removesuffix(behind)
    return mount.decode("utf-8", "surrogateescape")
