"""The small answer with Starlette: its router, its request, its response."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def article(request: Request) -> PlainTextResponse:
    """Answer to a route with a parameter."""
    return PlainTextResponse("Hello, world!")


app = Starlette(routes=[Route("/shop/articles/{number:int}", article)])
