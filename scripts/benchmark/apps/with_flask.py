"""The small answer with Flask."""

from flask import Flask

app = Flask(__name__)


@app.route("/shop/articles/<int:number>")
def article(number: int) -> str:
    """Answer to a route with a parameter."""
    return "Hello, world!"
