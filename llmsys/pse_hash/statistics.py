"""What a sketch holds and costs, as one flat record. Knows no rendering."""

from pathlib import Path

from llmsys.pse_hash.files import open_sketch, remembered
from llmsys.pse_hash.robust import copies_of

__all__ = ["statistics"]

Value = str | int | float | bool | None


def statistics(path: Path) -> dict[str, Value]:
    """Points, kernel, bytes by part, log, robustness and its budget, and the coverage at the last check."""
    opened = open_sketch(path)
    sketch, settings = opened.sketch, opened.sketch.settings
    points = sketch.points
    private = settings.robust == "dp"
    checked = remembered(path)
    return {
        "n": sketch.count,
        "d": points.dim,
        "kernel": settings.kernel,
        "scale": settings.scale,
        "method": settings.method,
        "eps": settings.eps,
        "delta": settings.delta,
        "tau": settings.tau,
        "point_bytes": points.values.nbytes + points.weights.nbytes,
        "file_bytes": sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        "log_records": opened.replayed,
        "torn_bytes": opened.torn_bytes,
        "robust": settings.robust,
        "adaptive": settings.robust != "none",
        "copies": copies_of(settings, points),
        "budget_left": settings.max_queries - sketch.asked if private else None,
        "tables_per_copy": settings.tables if settings.method == "hbe" else None,
        "checked_queries": checked.get("queries"),
        "checked_within_eps": checked.get("within_eps"),
        "checked_covered": checked.get("covered"),
    }
