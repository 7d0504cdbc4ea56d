"""How far a request has come."""

import enum

__all__ = ["Phase"]


class Phase(enum.Enum):
    """Where a request is between its first and its last record."""

    PARAMS = "params"  # its params are not whole
    QUEUED = "queued"  # waits for a task of its connection
    RUNNING = "running"  # its handler has been called
    RESPONDED = "responded"  # the front end has all it gets; the handler goes on
    ENDED = "ended"
