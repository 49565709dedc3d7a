"""Options of `llmsys serve-lora serve` that are about replicas."""

from typing import Annotated

import typer

__all__ = ["Cluster", "Consolidate", "KeepAlive", "MaxMoves", "Placement", "ReplicaTimeout", "Replicas", "Standby"]

Replicas = Annotated[
    str | None,
    typer.Option(
        "--replicas", metavar="N|LEAST:MOST", help="Replicas behind one gateway; 0:4 goes to zero. Without it: none."
    ),
]
Cluster = Annotated[
    str, typer.Option("--cluster", help="Where replicas run: local (processes), ray, or ray://HOST:PORT.")
]
Placement = Annotated[
    str, typer.Option("--placement", help="Replica of a request: punica, affinity, least-loaded or round-robin.")
]
KeepAlive = Annotated[
    str, typer.Option("--keep-alive", help="Idle replicas stay: ski-rental (as long as a start took), SECONDS or inf.")
]
Consolidate = Annotated[
    float, typer.Option("--consolidate-s", min=0.1, help="Seconds between attempts to empty the lightest replica.")
]
MaxMoves = Annotated[int, typer.Option("--max-moves", min=0, help="Moves of one request by consolidation.")]
ReplicaTimeout = Annotated[
    float,
    typer.Option("--replica-timeout-s", min=2.0, help="Seconds of silence after which a replica counts as lost."),
]
Standby = Annotated[
    int, typer.Option("--standby", min=0, max=8, help="Processes kept with imports done, for a faster start.")
]
