"""CGI meaning (RFC 3875): what a request's params say, and how a response head is written.

Pure: no input, output, clock or logging.
"""

from trifcgi.cgi.head import (
    complete_head,
    encode_head,
    end_of_head,
    error_response,
    is_bodyless,
)
from trifcgi.cgi.meaning import BadParams, Meaning, wsgi_environ
from trifcgi.cgi.script import script_filename, script_mount

__all__ = [
    "BadParams",
    "Meaning",
    "complete_head",
    "encode_head",
    "end_of_head",
    "error_response",
    "is_bodyless",
    "script_filename",
    "script_mount",
    "wsgi_environ",
]
