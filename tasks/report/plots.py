"""How plots look: small SVGs that read in print and by colour-blind people, with matplotlib.

Colours are those of Okabe and Ito, and viridis for maps; what a colour says is said by line style, marker or
label as well. Maps are pictures inside the SVG, and long series are to be binned before they are drawn, so
that a plot takes some ten kilobytes however large a night is. The same data give the same bytes.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    Floats = npt.NDArray[np.float64]

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
"""The palette of Okabe and Ito. Yellow is too light for lines on white."""
COMPUTE: Final[dict[str, Any]] = {"color": BLUE, "linestyle": "-", "label": "compute"}
MEMORY: Final[dict[str, Any]] = {"color": VERMILION, "linestyle": "--", "label": "memory"}
"""How the two resources are drawn, everywhere."""
SERIES: Final[tuple[dict[str, Any], ...]] = (
    {"color": BLUE, "linestyle": "-"},
    {"color": VERMILION, "linestyle": "--"},
    {"color": GREEN, "linestyle": "-."},
    {"color": PURPLE, "linestyle": ":"},
    {"color": BLACK, "linestyle": (0, (5, 1, 1, 1, 1, 1))},
    {"color": ORANGE, "linestyle": (0, (7, 2))},
)
"""Line styles of series without a meaning of their own."""
WIDTH: Final = 8.4
"""Inches, as wide as the page's text."""

_STYLE: Final[Any] = {
    "svg.fonttype": "none",
    # A dollar sign in a name is no formula, and formulas take a second of a report.
    "text.parse_math": False,
    "svg.hashsalt": "nightblend",
    "font.family": "sans-serif",
    "font.sans-serif": ["Arial", "Helvetica", "DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "hatch.linewidth": 0.6,
}
_ID: Final = re.compile(r' id="([^"]*)"')
_REFERENCE: Final = re.compile(r"#([\w.-]+)")
_COMMENTS: Final = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_METADATA: Final = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)


@contextmanager
def drawing(height: float, *, width: float = WIDTH) -> Iterator[Figure]:
    """Yield an empty figure of a size in inches, in the style of reports."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def svg(figure: Figure) -> str:
    """Return a figure as SVG that can stand inside a page beside others. Call it inside `drawing`."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for pattern in (_COMMENTS, _METADATA):
        text = pattern.sub("", text)
    # Ids that are used are digests of what they name; the others would clash with those of other plots.
    used = set(_REFERENCE.findall(text))
    text = _ID.sub(lambda found: found[0] if found[1] in used else "", text)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def heat_map(
    figure: Figure, axes: Axes, counts: Floats, x_edges: Floats, y_edges: Floats, label: str
) -> None:
    """Draw counts over logarithmic axes; cells without any stay white.

    Parameters
    ----------
    counts
        float64 [x, y].
    x_edges, y_edges
        float64 [x + 1], [y + 1]: evenly spaced in their logarithms, above 0.
    """
    shown = np.ma.masked_less_equal(counts.T, 0)
    mesh = axes.pcolormesh(
        x_edges,
        y_edges,
        shown,
        norm=LogNorm(1, max(2.0, counts.max(initial=1.0))),
        cmap="viridis",
        rasterized=True,
    )
    axes.set(xscale="log", yscale="log", xlim=(x_edges[0], x_edges[-1]), ylim=(y_edges[0], y_edges[-1]))
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label(label)
    for axis in (bar.ax.yaxis, axes.xaxis, axes.yaxis):
        label_log(axis)


class _Between(LogFormatter):
    """Labels of the ticks between powers of ten, where matplotlib wants any: on short axes."""

    def __call__(self, value: float, pos: int | None = None) -> str:
        return short(value) if super().__call__(value, pos) else ""


def label_log(axis: Axis) -> None:
    """Label a logarithmic axis with numbers as `short` writes them; matplotlib's own are formulas."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(_Between())


def log_edges(values: Floats, bins: int) -> Floats:
    """Return ``bins + 1`` edges, evenly spaced in their logarithms, around all values (at least 1)."""
    low = max(1.0, float(values.min(initial=np.inf))) if values.size else 1.0
    high = max(low, float(values.max(initial=1.0)))
    return np.geomspace(low / 1.1, high * 1.1, bins + 1)


def bars(
    axes: Axes,
    labels: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    colors: Sequence[str] | str = SKY,
) -> None:
    """Draw horizontal bars from the top down, each with its value written beside it."""
    places = np.arange(len(labels))
    drawn = axes.barh(places, values, height=0.62, color=colors, edgecolor=BLACK, linewidth=0.6)
    axes.bar_label(drawn, labels=list(texts), padding=4)
    axes.set_yticks(places, list(labels))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.18)
    axes.set_xlim(left=0)


def short(value: float) -> str:
    """Return a number in few characters: 0.5, 12, 1.5k, 20M."""
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"
