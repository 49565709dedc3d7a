"""Replicas that come and go: as many as are waited for, released when idle, replaced when lost, emptied when light.

An idle replica is kept as long as a start takes, or as long as was asked for: at most twice what the best foresight
would pay (ski rental). Knows nothing of HTTP or of what a request says.
"""

import asyncio
import logging
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial

from llmsys.engine.policy import Policy
from llmsys.errors import LlmsysError
from llmsys.serve_lora.cluster.routing import make_router
from llmsys.serve_lora.fleet.dispatch import Dispatcher
from llmsys.serve_lora.fleet.facts import FleetFacts, ReplicaFacts
from llmsys.serve_lora.fleet.launching import Launcher
from llmsys.serve_lora.fleet.link import Link, LinkEvents
from llmsys.serve_lora.fleet.member import Member, all_fit
from llmsys.serve_lora.fleet.messages import Pins, Ready, Report
from llmsys.serve_lora.fleet.settings import FleetSettings

__all__ = ["Alike", "Fleet", "Gone"]

LOG = logging.getLogger("llmsys.serve_lora")
FAILURES_MAX = 3
FIRST_PAUSE_S = 0.5


@dataclass(slots=True)
class Gone:
    """What replicas that are gone had reported last, so that counts never fall."""

    reports: list[Report]
    device_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class Alike:
    """What all replicas have in common: their limits, and the files of their tokenizer."""

    ready: Ready
    texts: dict[str, bytes]


class Fleet:
    """A number of replicas between settings.least and settings.most, and the requests on them.

    failure: why there is nobody to work, None while there may be. starts_s: how long each start took.
    """

    def __init__(self, launcher: Launcher, policy: Policy, settings: FleetSettings, *, max_queue: int) -> None:
        self.settings = settings
        self.failure: str | None = None
        self.starts_s: list[float] = []
        self.stages_s: dict[str, float] = {}
        self.gone = Gone([], {})
        self.pins = Pins([])
        router = make_router(settings.placement)
        self.dispatcher = Dispatcher(policy, router, max_queue=max_queue, on_change=self._adapt)
        self._consolidates = router.consolidates
        self._launcher = launcher
        self._starting = 0
        self._failures = 0
        self._is_open = False
        self._places = settings.places
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def members(self) -> list[Member]:
        """Replicas that answer."""
        return self.dispatcher.members

    @property
    def keep_alive_s(self) -> float:
        """Seconds until an idle replica is released: what was asked for, or the mean of the starts so far."""
        if self.settings.keep_alive_s is not None:
            return self.settings.keep_alive_s
        return math.fsum(self.starts_s) / len(self.starts_s) if self.starts_s else math.inf

    async def open(self) -> Alike:
        """Start the first replica, which says what all are like; the others follow. Raises LlmsysError."""
        self._starting += 1
        await self._start()
        link = self.members[0].link
        alike = Alike(link.ready, await link.texts())
        self._places = link.ready.max_sequences
        self._is_open = True
        self._go(self._consolidate())
        self._adapt()
        return alike

    async def close(self) -> None:
        """End every replica."""
        self._is_open = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.failure = self.failure or "the server was closed"
        self.dispatcher.fail_all(self.failure)
        members = list(self.members)
        self.members.clear()
        await asyncio.gather(*(self._end(member) for member in members))
        await self._launcher.close()

    def facts(self) -> FleetFacts:
        """What there is now, and what has happened so far."""
        dispatcher = self.dispatcher
        replicas = [
            ReplicaFacts(
                number=member.number,
                pid=member.handle.pid,
                address=member.handle.address,
                requests=len(member.running),
                sequences=sum(piece.sequences for piece in member.running),
                tokens=sum(piece.known_tokens for piece in member.running),
                resident=sorted(member.resident),
            )
            for member in self.members
        ]
        return FleetFacts(replicas, len(self.starts_s), dispatcher.losses, dispatcher.moves, dict(self.stages_s))

    def tell_pins(self, pins: Pins) -> None:
        """Let every replica, and those to come, hold these adapters."""
        self.pins = Pins(pins.held)
        for member in self.members:
            member.link.send(pins)

    def _adapt(self) -> None:
        """Start what is missing: the least that is to be there, and enough for what waits."""
        if not self._is_open or self.failure is not None:
            return
        while len(self.members) + self._starting < self._wanted():
            self._starting += 1
            self._go(self._start_again())
        for member in self.members:
            if not member.running:
                self._release_later(member)

    def _wanted(self) -> int:
        """Replicas that there should be, those that are starting among them."""
        queued = self.dispatcher.queued()
        missing = math.ceil(queued / self._places)
        return min(max(self.settings.least, len(self.members) + missing), self.settings.most)

    async def _start_again(self) -> None:
        """One start, with pauses between failures; after too many the fleet has failed."""
        try:
            await self._start()
        except (LlmsysError, OSError) as error:
            LOG.error("a replica did not start: %s", error)
            self._failures += 1
            if self._failures >= FAILURES_MAX:
                self._fail(f"{FAILURES_MAX} replicas in a row did not start: {error}")
                return
            await asyncio.sleep(FIRST_PAUSE_S * 2**self._failures)
            self._adapt()

    async def _start(self) -> None:
        """Start a replica and put it to work."""
        number, self._next = self._next, self._next + 1
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        try:
            handle = await self._launcher.launch(number)
            try:
                link = await Link.open(handle.address, handle.secret, silence_s=self.settings.silence_s)
            except BaseException:
                await handle.stop()
                raise
        finally:
            self._starting -= 1
        self.starts_s.append(loop.time() - begun_s)
        self.stages_s = link.ready.stages_s
        self._failures = 0
        self._join(Member(number, handle, link))

    def _join(self, member: Member) -> None:
        dispatcher = self.dispatcher
        lost = partial(self._lost, member)
        member.link.listen(
            LinkEvents(said=dispatcher.hear, refused=dispatcher.refuse, spent=dispatcher.settle, lost=lost)
        )
        member.link.send(self.pins)
        dispatcher.members.append(member)
        dispatcher.dispatch()

    def _lost(self, member: Member) -> None:
        """A replica's connection has ended without our doing, or nothing came over it for too long."""
        if member not in self.members:
            return
        LOG.error("replica %d was lost with %d requests", member.number, len(member.running))
        self._keep_counts(member)
        self.dispatcher.lose(member)
        self._go(self._end(member))

    def _release_later(self, member: Member) -> None:
        """Release an idle replica when its time is over, unless it has worked since."""
        if member.timed_turn == member.idle_turn or math.isinf(self.keep_alive_s):
            return
        member.timed_turn = turn = member.idle_turn

        def release() -> None:
            idle = member.idle_turn == turn and not member.running
            if idle and member in self.members and self._is_open:
                if len(self.members) > self.settings.least:
                    self.members.remove(member)
                    self._keep_counts(member)
                    self._go(self._end(member))
                else:
                    member.timed_turn = -1  # it is looked at again when something changes

        asyncio.get_running_loop().call_later(self.keep_alive_s, release)

    async def _consolidate(self) -> None:
        """From time to time empty the lightest replica, if the others that work can take all that it has."""
        while self._consolidates and math.isfinite(self.settings.consolidate_s):
            await asyncio.sleep(self.settings.consolidate_s)
            self.consolidate()

    def consolidate(self) -> bool:
        """Empty the lightest replica now, if it can be; whether it was."""
        busy = [member for member in self.members if member.running]
        if len(busy) < 2 or self.dispatcher.queued():
            return False
        lightest = min(busy, key=lambda member: (len(member.running), -member.number))
        others = [member for member in busy if member is not lightest]
        movable = all(piece.moves < self.settings.max_moves for piece in lightest.running)
        if movable and all_fit(others, lightest.running):
            self.dispatcher.move_all(lightest)
            return True
        return False

    async def _end(self, member: Member) -> None:
        await member.link.close()
        await member.handle.stop()

    def _keep_counts(self, member: Member) -> None:
        report = member.link.report
        if report is not None:
            self.gone.reports.append(report)
            for tenant, seconds in report.device_s.items():
                self.gone.device_s[tenant] = self.gone.device_s.get(tenant, 0.0) + seconds

    def _fail(self, message: str) -> None:
        self.failure = message
        self.dispatcher.fail_all(message)

    def _go(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
