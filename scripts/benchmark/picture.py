"""The figures as a picture (SVG): bars, whose ends are medians, with the range of the rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from .figures import Series

__all__ = ["draw"]

_LEFT = 230  # where the bars begin; the names stand before it
_BAR = 520  # length of the longest
_ROW = 24
_TOP = 34
_WIDTH = 860
_STYLE = """
    text { font-family: "DejaVu Sans", Verdana, sans-serif; font-size: 13px; fill: #1f2933; }
    .title { font-weight: 600; }
    .small { font-size: 11.5px; fill: #52606d; }
    .bar { fill: #8885; stroke: #7b8794; }
    .ours { fill: #27ae6099; stroke: #27ae60; }
    .range { stroke: #1f2933; stroke-width: 1.5; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e4e7eb; }
      .small { fill: #9aa5b1; }
      .range { stroke: #e4e7eb; }
    }
"""


@dataclass(frozen=True)
class _Panel:
    """One chart: a figure of all contenders in a work."""

    title: str
    work: str
    figure: str
    best_is_high: bool


_PANELS = (
    _Panel("Directly: requests a second, one core", "direct", "rate", best_is_high=True),
    _Panel("Behind nginx: µs of one core a request", "nginx", "cost", best_is_high=False),
)


def _bar(one: Series, figure: str, y: int, scale: float) -> str:
    """One contender. A bar that is too long is drawn broken."""
    values = one.figures[figure]
    median = one.median(figure) or 0.0
    name = one.label.replace("pure Python codec", "pure Python")
    ours = " ours" if one.contender.startswith("trifcgi") else ""
    middle = y + _ROW / 2 - 2
    low, high = (_LEFT + min(value * scale, _BAR) for value in (min(values), max(values)))
    end = _LEFT + min(median * scale, _BAR)
    number = f"{median:,.0f}" if figure == "rate" else f"{median:.0f}"
    broken = median * scale > _BAR
    mark = f"M{low:.1f} {middle}H{high:.1f}"
    if broken:
        mark = f"M{end - 24:.1f} {y + _ROW - 2}l8 {-_ROW}m4 0l-8 {_ROW}"
    return (
        f'  <text x="{_LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>\n'
        f'  <rect class="bar{ours}" x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}"'
        f' height="{_ROW - 4}"/>\n'
        f'  <path class="range" d="{mark}"/>\n'
        f'  <text class="small" x="{max(high, end) + 6:.1f}"'
        f' y="{middle + 4}">{number}</text>\n'
    )


def _panel(panel: _Panel, series: Sequence[Series], top: int) -> tuple[str, int]:
    """A chart that begins there, and where it ends."""
    rows = [one for one in series if one.work == panel.work and panel.figure in one.figures]
    rows.sort(key=lambda one: one.median(panel.figure) or 0.0, reverse=panel.best_is_high)
    if not rows:
        return "", top
    # One that is far from all others would leave no room for them.
    longest, *others = sorted((max(one.figures[panel.figure]) for one in rows), reverse=True)
    scale = _BAR / (others[0] if others and longest > 2 * others[0] else longest)
    drawn = [f'  <text class="title" x="20" y="{top + 16}">{escape(panel.title)}</text>\n']
    y = top + _TOP
    for one in rows:
        drawn.append(_bar(one, panel.figure, y, scale))
        y += _ROW
    return "".join(drawn), y + 12


def draw(series: Sequence[Series], caption: str) -> str:
    """The picture, as an SVG document that is readable on light and on dark."""
    top = 10
    drawn = []
    for panel in _PANELS:
        part, top = _panel(panel, series, top)
        drawn.append(part)
    said = "; ".join(
        f"{one.label} {one.median('rate') or 0:,.0f}"
        for one in series
        if one.work == "direct" and "rate" in one.figures
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 24}" role="img"'
        ' aria-labelledby="t d">\n'
        '  <title id="t">trifcgi and other servers under the same load</title>\n'
        f'  <desc id="d">Requests a second, directly: {escape(said)}.</desc>\n'
        f"  <style>{_STYLE}  </style>\n"
        f"{''.join(drawn)}"
        f'  <text class="small" x="20" y="{top + 10}">{escape(caption)}</text>\n'
        "</svg>\n"
    )
