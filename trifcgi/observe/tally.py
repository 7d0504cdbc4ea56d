"""What the data plane's metrics count of each request; compiled."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from trifcgi.cgi.reading import Reading
from trifcgi.observe.recorder import COMPLETE, Recorder

if TYPE_CHECKING:
    from mypy_extensions import i64

__all__ = ["Histogram", "Tally"]

SECONDS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip
"""Bounds of the durations: from an app that only answers to an upload over a slow line."""

BYTES: Final = (0, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20,
                256 << 20)  # fmt: skip
"""Bounds of the body sizes."""


class Histogram:
    """Counts values by upper bounds, which count as inside.

    Attributes:
        bounds: as given.
        counts: for each bound, how many values were within it and above the one before;
            the last of them counts what is above all bounds.
        sum: of all values.
    """

    __slots__ = ("_floats", "bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._floats = [float(bound) for bound in bounds]
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        bounds = self._floats
        at: i64 = 0
        end: i64 = len(bounds)
        # From below: most values are small.
        while at < end and bounds[at] < value:
            at += 1
        self.counts[at] += 1
        self.sum += value

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum}


class Tally(Recorder):
    """Requests that have ended, and what is told of them.

    Attributes:
        duration: in seconds.
        bytes_in: sizes of request bodies.
        bytes_out: sizes of response bodies.
    """

    __slots__ = ("_by_end", "_complete", "bytes_in", "bytes_out", "duration")

    def __init__(self) -> None:
        self._complete: dict[int, int] = {}
        self._by_end: dict[str, dict[int, int]] = {COMPLETE: self._complete}
        self.duration = Histogram(SECONDS)
        self.bytes_in = Histogram(BYTES)
        self.bytes_out = Histogram(BYTES)

    @property
    def requests(self) -> dict[tuple[int, str], int]:
        """How many, by status and by why they ended."""
        return {
            (status, end): number
            for end, statuses in self._by_end.items()
            for status, number in statuses.items()
        }

    def record(
        self,
        block: bytes,
        params: Mapping[bytes, bytes],
        reading: Reading | None,
        role: int,
        status: int,
        body_bytes: int,
        bytes_in: int,
        duration: float,
        app_status: int,
        end: str,
    ) -> None:
        """Count it."""
        if end is COMPLETE:
            statuses = self._complete
            statuses[status] = statuses.get(status, 0) + 1
        else:
            self.add(status, end, 1)
        self.duration.observe(duration)
        self.bytes_in.observe(bytes_in)
        self.bytes_out.observe(body_bytes)

    def add(self, status: int, end: str, number: int) -> None:
        """Count so many requests that ended alike."""
        statuses = self._by_end.setdefault(end, {})
        statuses[status] = statuses.get(status, 0) + number
