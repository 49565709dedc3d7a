"""Figures in files: lines over one axis, as .png or .svg (matplotlib) or as .html that stands alone (plotly).

Knows nothing of what the numbers mean. Both packages come with the extra `plot`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Figure", "Line", "draw"]

INCHES = (9, 5)


@dataclass(frozen=True, slots=True)
class Line:
    """One named line: y over x, of equal length."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True)
class Figure:
    """What is drawn: a title, both axes with their units, and the lines."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]


def draw(figure: Figure, path: Path) -> None:
    """Write the figure; it appears whole or not at all. Raises Unavailable where the package is missing."""
    from llmsys.artifacts import replace_path

    with replace_path(path) as temporary:
        if path.suffix == ".html":
            _draw_html(figure, temporary)
        else:
            _draw_image(figure, temporary, path.suffix.removeprefix("."))


def _draw_image(figure: Figure, path: Path, kind: str) -> None:
    from llmsys.gpu import require

    canvas = require("matplotlib.figure").Figure(figsize=INCHES, layout="constrained")
    axes = canvas.add_subplot(title=figure.title, xlabel=figure.x_label, ylabel=figure.y_label)
    for line in figure.lines:
        axes.plot(line.x, line.y, label=line.name)
    axes.grid(alpha=0.3)
    axes.legend()
    # without a date, the same figure is the same bytes
    canvas.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _draw_html(figure: Figure, path: Path) -> None:
    from llmsys.gpu import require

    graphs = require("plotly.graph_objects")
    drawn = graphs.Figure([graphs.Scatter(x=list(line.x), y=list(line.y), name=line.name) for line in figure.lines])
    drawn.update_layout(title=figure.title, xaxis_title=figure.x_label, yaxis_title=figure.y_label)
    drawn.write_html(path, include_plotlyjs=True, div_id="figure")
