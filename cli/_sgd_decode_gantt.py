"""When each plan and part was written, as bars in a file: .png or .svg (matplotlib), or .html (plotly).

Knows nothing of how answers are made. Both packages come with the extra `plot`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmsys.sgd_decode import Answer

__all__ = ["draw_gantt"]

COLORS = {"plan": "#888888", "large": "#1f77b4", "small": "#2ca02c"}
ROW_INCHES = 0.28
TITLE_CHARS = 48


@dataclass(frozen=True, slots=True)
class _Bar:
    label: str
    kind: str
    start_s: float
    long_s: float


def draw_gantt(answers: "Sequence[Answer]", path: Path) -> None:
    """Write the bars of all answers; the file appears whole or not at all. Raises Unavailable without the package."""
    from llmsys.artifacts import replace_path

    bars = [bar for answer in answers for bar in _bars(answer)]
    with replace_path(path) as temporary:
        if path.suffix == ".html":
            _draw_html(bars, temporary)
        else:
            _draw_image(bars, temporary, path.suffix.removeprefix("."))


def _bars(answer: "Answer") -> Iterator[_Bar]:
    name, zero_s = answer.question.id, answer.start_s
    if not answer.parts:
        yield _Bar(f"{name} in one piece", "large", zero_s, answer.total_s)
        return
    yield _Bar(f"{name} plan", "plan", zero_s, answer.plan_s)
    for part in answer.parts:
        label = f"{name} {part.id}. {part.title}"[:TITLE_CHARS]
        yield _Bar(label, part.model, zero_s + part.start_s, max(0.0, part.end_s - part.start_s))


def _draw_image(bars: Sequence[_Bar], path: Path, kind: str) -> None:
    from llmsys.gpu import require

    canvas = require("matplotlib.figure").Figure(figsize=(10, 1 + ROW_INCHES * len(bars)), layout="constrained")
    axes = canvas.add_subplot(title="When each part was written", xlabel="seconds")
    rows = range(len(bars))
    axes.barh(
        rows, [bar.long_s for bar in bars], left=[bar.start_s for bar in bars], color=[COLORS[bar.kind] for bar in bars]
    )
    axes.set_yticks(rows, [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    # without a date, the same figure is the same bytes
    canvas.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _draw_html(bars: Sequence[_Bar], path: Path) -> None:
    from llmsys.gpu import require

    graphs = require("plotly.graph_objects")
    drawn = graphs.Figure(
        graphs.Bar(
            x=[bar.long_s for bar in bars],
            y=[bar.label for bar in bars],
            base=[bar.start_s for bar in bars],
            marker_color=[COLORS[bar.kind] for bar in bars],
            orientation="h",
        )
    )
    drawn.update_layout(title="When each part was written", xaxis_title="seconds", yaxis_autorange="reversed")
    drawn.write_html(path, include_plotlyjs=True, div_id="gantt")
