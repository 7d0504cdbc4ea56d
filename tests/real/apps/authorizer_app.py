"""An authorizer: lets through whoever knows the word, and says who it is."""

import trifcgi


async def app(request: trifcgi.Request) -> None:
    assert request.role is trifcgi.Role.AUTHORIZER
    if request.params.get("HTTP_X_WORD") == "sesame":
        await request.stdout.send_all(b"Status: 200 OK\r\nVariable-AUTH_METHOD: word\r\n\r\n")
    else:
        await request.stdout.send_all(
            b"Status: 403 Forbidden\r\nContent-Type: text/plain\r\n\r\nwhat is the word?\n"
        )
