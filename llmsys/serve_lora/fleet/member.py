"""One replica as its gateway sees it: what it works on, what it can still take, and since when it has nothing to do.

Knows nothing of queues or of other replicas.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmsys.serve_lora.fleet.launching import Handle
from llmsys.serve_lora.fleet.link import Link
from llmsys.serve_lora.fleet.messages import Cancel
from llmsys.serve_lora.fleet.tasks import Piece

__all__ = ["Member", "all_fit"]


@dataclass(slots=True, eq=False)
class Member:
    """A replica that answers. idle_turn: how often it went to work; timed_turn: that of its timer, -1 without one."""

    number: int
    handle: Handle
    link: Link
    running: list[Piece] = field(default_factory=list)
    idle_turn: int = 0
    timed_turn: int = -1

    @property
    def resident(self) -> set[str]:
        """Adapters in its slots: those in use, and those of its last report."""
        reported = self.link.report.resident if self.link.report is not None else ()
        return {*reported, *self._held()}

    def fits(self, piece: Piece) -> bool:
        """Whether a piece can run now: places in the batch, memory for its tokens, a slot for its adapter.

        What is larger than a whole replica is taken by an empty one, which runs it in turns or refuses it.
        """
        if not self.running:
            return True
        ready, held = self.link.ready, self._held()
        if piece.adapter and piece.adapter not in held and len(held) >= ready.lora_slots:
            return False
        return self._places() >= piece.sequences and self._tokens() >= _needed(piece)

    def begin(self, piece: Piece) -> None:
        """Have a piece done."""
        self.running.append(piece)
        self.idle_turn += 1
        self.link.send(piece.work())

    def end(self, piece: Piece, *, cancel: bool) -> None:
        """Take a piece off; `cancel` tells the replica to stop working on it."""
        self.running.remove(piece)
        if cancel:
            self.link.send(Cancel(piece.number))

    def said_s(self, number: int) -> float:
        """Device seconds of a piece of work, as its last report had them."""
        return self.link.report.work_s.get(number, 0.0) if self.link.report is not None else 0.0

    def _held(self) -> set[str]:
        return {piece.adapter for piece in self.running if piece.adapter}

    def _places(self) -> int:
        return self.link.ready.max_sequences - sum(piece.sequences for piece in self.running)

    def _tokens(self) -> int:
        """Tokens that have room, the next one of every running sequence taken off."""
        return self.link.ready.kv_tokens - sum(_needed(piece) for piece in self.running)


def all_fit(others: Sequence[Member], pieces: Sequence[Piece]) -> bool:
    """Whether other replicas have places and memory for all of these pieces, each counted once."""
    places = {other.number: other._places() for other in others}
    tokens = {other.number: other._tokens() for other in others}
    for piece in sorted(pieces, key=lambda piece: -piece.known_tokens):
        fitting = [at for at in places if places[at] >= piece.sequences and tokens[at] >= _needed(piece)]
        if not fitting:
            return False
        chosen = min(fitting, key=lambda at: tokens[at])
        places[chosen] -= piece.sequences
        tokens[chosen] -= _needed(piece)
    return True


def _needed(piece: Piece) -> int:
    return piece.known_tokens + piece.sequences
