"""What of a request may be shown."""

import pytest

from trifcgi.observe.masking import is_secret, mask_head, mask_param, mask_url, printable


@pytest.mark.parametrize(
    "name",
    [
        "HTTP_AUTHORIZATION", "HTTP_COOKIE", "HTTP_PROXY_AUTHORIZATION", "HTTP_X_CSRF_TOKEN",
        "DB_PASSWORD", "CLIENT_SECRET", "HTTP_X_API_KEY", "http_cookie", "Set-Cookie",
        "AWS_ACCESS_KEY_ID", "PASSWD", "SESSION_ID",
    ],
)  # fmt: skip
def test_names_tell_secrets(name: str) -> None:
    assert is_secret(name)
    assert mask_param(name, "geheim") == "***"
    assert mask_param(name, "") == ""


@pytest.mark.parametrize(
    "name", ["REQUEST_METHOD", "HTTP_HOST", "REMOTE_USER", "PATH_INFO", "HTTP_USER_AGENT"]
)
def test_other_params_stay_as_they_are(name: str) -> None:
    assert not is_secret(name)
    assert mask_param(name, "a=b") == "a=b"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/a?x=1&y=2", "/a?x=1&y=2"),
        ("/a?token=1", "/a?token=***"),
        ("/a?x=1&access_token=2#f", "/a?x=1&access_token=***#f"),
        ("user_password=1;x=2", "user_password=***;x=2"),
        ("code=1&key=2&keyboard=3", "code=***&key=***&keyboard=3"),
        ("/a?token=", "/a?token="),
        ("https://me:geheim@host/a", "https://***@host/a"),
        ("/a@b?x=c@d", "/a@b?x=c@d"),
    ],
)
def test_queries_and_passwords_in_urls_are_masked(url: str, shown: str) -> None:
    assert mask_url(url) == shown
    assert mask_param("HTTP_REFERER", url) == shown


def test_a_head_keeps_all_but_its_secrets() -> None:
    head = "Status: 302 Found\nLocation: /x?token=1\nSet-Cookie: sid=1; Path=/"
    assert mask_head(head) == "Status: 302 Found\nLocation: /x?token=***\nSet-Cookie: ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("größe", "größe"),
        ("\x1b[2J\n\x7f", r"\x1b[2J\x0a\x7f"),
        ("\u202e\u2028", r"\u202e\u2028"),
        ("\udcff", r"\xff"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_nothing_moves_a_terminals_cursor(text: str, shown: str) -> None:
    assert printable(text) == shown
