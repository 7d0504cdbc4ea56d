"""The page: one file that needs nothing else, under a policy that allows nothing else."""

import base64
import hashlib
import re
from importlib import resources
from typing import Final

__all__ = ["HEADERS", "PAGE"]

PAGE: Final = resources.files("trifcgi.admin").joinpath("page.html").read_bytes()
"""HTML with its own style and script, the same for everybody: there is no data in it."""


def _hashes(tag: bytes) -> str:
    """The sources that a policy has to name for the page's own ``<style>`` or ``<script>``."""
    found = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), PAGE, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in found]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


_POLICY: Final = (
    "default-src 'none'",
    f"style-src {_hashes(b'style')}",
    f"script-src {_hashes(b'script')}",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)

HEADERS: Final = (
    (b"content-security-policy", "; ".join(_POLICY).encode()),
    (b"x-frame-options", b"DENY"),
)
"""Nothing is loaded from anywhere, nothing runs but what is in the file, and no other site can
put the page into a frame, under somebody's mouse."""
