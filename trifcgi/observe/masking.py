"""What must not be shown of a request: values that are, or hold, somebody's secret.

Whatever leaves through the control server passes through here. The rule goes by names, and
rather hides too much: a param is a secret if its name says so (``HTTP_AUTHORIZATION``,
``HTTP_COOKIE``, anything with ``TOKEN``, ``SECRET`` or ``PASSWORD`` in it), and so is such a
name's value within a URL's query.
"""

import re
from typing import Final

__all__ = ["MASK", "is_secret", "mask_head", "mask_param", "mask_url", "printable"]

MASK: Final = "***"
"""Stands for a value that is not shown."""

_WORDS: Final = (
    r"authorization|cookie|token|secret|passw|passphrase|pwd|credential|api[-_]?key"
    r"|access[-_]?key|private|signature|session[-_]?id|csrf|xsrf|jwt"
)
_SECRET: Final = re.compile(_WORDS, re.IGNORECASE)
_IN_QUERY: Final = re.compile(
    rf"((?:^|(?<=[?&;\s]))(?:[^=&;?#\s]*(?:{_WORDS})[^=&;?#\s]*|auth|key|sig|sid|code)=)[^&;#\s]+",
    re.IGNORECASE,
)
_USER_INFO: Final = re.compile(r"(?<=://)[^/?#@\s]+(?=@)")
_HEAD_LINE: Final = re.compile(r"^([^:\r\n]*):[ \t]*(.*)$", re.MULTILINE)


def is_secret(name: str) -> bool:
    """Whether a param's, a header's or an option's name says that its value is a secret."""
    return _SECRET.search(name) is not None


def mask_url(text: str) -> str:
    """A URL, a path or a query string without the secrets in its query, nor a password."""
    if "=" in text:
        text = _IN_QUERY.sub(rf"\g<1>{MASK}", text)
    return _USER_INFO.sub(MASK, text) if "@" in text else text


def mask_param(name: str, value: str) -> str:
    """A param's value as it may be shown."""
    return MASK if value and is_secret(name) else mask_url(value)


def mask_head(head: str) -> str:
    """A response head, with the values of secret headers (``Set-Cookie``) masked."""
    return _HEAD_LINE.sub(lambda m: f"{m[1]}: {mask_param(m[1], m[2].rstrip())}", head)


def printable(text: str) -> str:
    r"""Text that a terminal shows as it is: control characters, line breaks, and what turns the
    direction of text, are spelled ``\xNN`` or ``\uNNNN``.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else _spelled(c) for c in text)


def _spelled(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8 (surrogateescape)
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
