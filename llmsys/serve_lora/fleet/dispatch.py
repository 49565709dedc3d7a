"""Who waits, and what is placed where: a fair policy says who is next, a placement rule says on which replica.

What a replica lost or gave up goes on before anything new begins. Knows nothing of how replicas come and go.
"""

import asyncio
from bisect import insort
from collections.abc import Callable, Iterator
from itertools import count

from llmsys.engine.errors import AdapterError, CapacityError, EngineError, RequestError
from llmsys.engine.policy import Policy
from llmsys.engine.sequence import Finish, Request
from llmsys.serve_lora.cluster.routing import Router
from llmsys.serve_lora.fleet.member import Member
from llmsys.serve_lora.fleet.messages import Refused, Said, Spent
from llmsys.serve_lora.fleet.tasks import Job, Piece

__all__ = ["Dispatcher"]

LOSSES_MAX = 3


class Dispatcher:
    """The queue of a fleet and the pieces on its members. on_change: called when something was queued or has ended."""

    def __init__(self, policy: Policy, router: Router, *, max_queue: int, on_change: Callable[[], None]) -> None:
        self.members: list[Member] = []
        self.waiting: dict[int, Piece] = {}
        self.returning: list[Piece] = []
        self.moves = self.losses = 0
        self._policy, self._router, self._max_queue = policy, router, max_queue
        self._on_change = on_change
        self._numbers = count()
        self._places: dict[int, tuple[Piece, Member]] = {}
        self._owed: dict[int, tuple[Job, Member]] = {}
        self._leaving: Member | None = None

    def submit(self, job: Job) -> None:
        """Queue a request and place what can be placed. Raises CapacityError past the queue's bound."""
        if len(self.waiting) >= self._max_queue:
            raise CapacityError(f"{len(self.waiting)} requests are waiting, the bound is {self._max_queue}")
        self._policy.on_arrival(job.request, job.request.arrival_s)
        self.waiting[job.request.request_id] = job.whole(next(self._numbers))
        self.dispatch()

    def leave(self, job: Job) -> None:
        """Nobody waits for a job any more: end what is left of it. A job that has ended is left alone."""
        if job.left or not job.unfinished:
            return
        job.left = True
        self.waiting.pop(job.request.request_id, None)
        self.returning = [piece for piece in self.returning if piece.job is not job]
        for piece, member in self._of(job):
            self._take(piece, member, cancel=True)
        self._policy.on_finish(job.request, "cancelled")
        self.dispatch()

    def dispatch(self) -> None:
        """Place what waits, as far as there is room: interrupted pieces in order, then what the policy picks."""
        while self.returning and self._place(self.returning[0]):
            self.returning.pop(0)
        if not self.returning and self.waiting:
            for _ in self._policy.pick([piece.job.request for piece in self.waiting.values()], self._admit, _now_s()):
                pass
        self._on_change()

    def hear(self, said: Said) -> None:
        """Hand an event of a replica to its client; what nobody waits for is passed over."""
        piece, member = self._places.get(said.number, (None, None))
        if piece is None or member is None:
            return
        event = piece.hear(said)
        if event.token_id >= 0:
            self._policy.on_tokens(piece.job.request, input_tokens=0, output_tokens=1)
        piece.job.inbox.put_nowait(event)
        if event.finish is not None:
            self._ended(piece, member, event.finish)

    def refuse(self, refused: Refused) -> None:
        """A replica cannot do a piece: the job fails with its reason."""
        piece, member = self._places.get(refused.number, (None, None))
        if piece is not None and member is not None:
            kind = {"request": RequestError, "adapter": AdapterError}.get(refused.kind, EngineError)
            self._fail(piece.job, kind(refused.message))

    def settle(self, spent: Spent) -> None:
        """A replica says what it charged for a piece that was taken from it."""
        job, _ = self._owed.pop(spent.number, (None, None))
        if job is not None:
            job.charge(spent.device_s)

    def lose(self, member: Member) -> None:
        """A replica is gone: what it worked on goes on elsewhere, unless it has been on too many that were lost."""
        self.members.remove(member)
        self.losses += 1
        self._settle_for(member)
        for job in {id(piece.job): piece.job for piece in member.running}.values():
            job.losses += 1
            if job.losses >= LOSSES_MAX:
                self._fail(job, EngineError(f"{LOSSES_MAX} replicas were lost while they worked on this request"))
        for piece in list(member.running):
            self._bring_back(piece, member, cancel=False)
        self.dispatch()

    def move_all(self, member: Member) -> None:
        """Take everything off a replica and place it on others (Punica, §5); it is computed again there."""
        for piece in list(member.running):
            piece.moves += 1
            self.moves += 1
            self._bring_back(piece, member, cancel=True)
        self._leaving = member
        self.dispatch()
        self._leaving = None

    def fail_all(self, message: str) -> None:
        """Tell everyone who waits that there is nobody to work."""
        pieces = (*self.waiting.values(), *self.returning, *(piece for piece, _ in self._places.values()))
        for job in {id(piece.job): piece.job for piece in pieces}.values():
            self._fail(job, EngineError(message))

    def queued(self) -> int:
        """Sequences that wait for a place."""
        return sum(piece.sequences for piece in (*self.waiting.values(), *self.returning))

    def _admit(self, request: Request) -> bool:
        piece = self.waiting[request.request_id]
        if not self._place(piece):
            return False
        del self.waiting[request.request_id]
        self._policy.on_tokens(request, input_tokens=request.prompt_tokens, output_tokens=0)
        return True

    def _place(self, piece: Piece) -> bool:
        member = self._router.route(piece, [member for member in self.members if member is not self._leaving])
        if member is None:
            return False
        self._places[piece.number] = (piece, member)
        member.begin(piece)
        return True

    def _settle_for(self, member: Member) -> None:
        """Charge what a lost replica said last of the pieces on it and of those that were taken from it."""
        for piece in member.running:
            self._owe(piece, member)
        for number in [number for number, (_, owing) in self._owed.items() if owing is member]:
            self.settle(Spent(number, member.said_s(number)))

    def _owe(self, piece: Piece, member: Member) -> None:
        self._owed[piece.number] = (piece.job, member)
        piece.job.owe()

    def _bring_back(self, piece: Piece, member: Member, *, cancel: bool) -> None:
        if cancel:
            self._owe(piece, member)
        self._take(piece, member, cancel=cancel)
        numbers = [next(self._numbers) for _ in piece.choices]
        for part in piece.rest(numbers):
            insort(self.returning, part, key=lambda piece: piece.order)

    def _take(self, piece: Piece, member: Member, *, cancel: bool) -> None:
        del self._places[piece.number]
        member.end(piece, cancel=cancel)

    def _ended(self, piece: Piece, member: Member, finish: Finish) -> None:
        if not piece.sequences:
            self._take(piece, member, cancel=False)
        if not piece.job.unfinished:
            self._policy.on_finish(piece.job.request, finish)
        self.dispatch()

    def _fail(self, job: Job, error: EngineError) -> None:
        """End a job with an error; `leave` would tell its client nothing."""
        if not job.left:
            self.leave(job)
            job.inbox.put_nowait(error)

    def _of(self, job: Job) -> Iterator[tuple[Piece, Member]]:
        return iter([(piece, member) for piece, member in self._places.values() if piece.job is job])


def _now_s() -> float:
    return asyncio.get_running_loop().time()
