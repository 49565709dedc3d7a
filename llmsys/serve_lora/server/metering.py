"""What a server's steps cost, charged in the engine's thread while it runs.

An executor that says when steps begin and end, and a meter that hears it and the engine's events. Time is charged to
the rows of a step up to the moment its tokens are out; what lies between steps is overhead while a request is open,
and idle time else. Knows nothing of HTTP.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from llmsys.engine.outputs import EngineEvent
from llmsys.engine.parts import Executor
from llmsys.engine.sequence import Plan
from llmsys.serve_lora.ledger import Ledger
from llmsys.serve_lora.plan_tap import PlanTap
from llmsys.serve_lora.step_cost import StepRow

__all__ = ["Meter", "MeteredExecutor"]

REMEMBERED = 1 << 14


class Meter:
    """Keeps a ledger, and device seconds by tenant and by recent request; `clock` in seconds, the ledger's."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self.device_s: dict[str, float] = {}
        self._request_s: OrderedDict[int, float] = OrderedDict()
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._ledger = ledger
        self._clock = clock
        self._open = 0
        self._rows: list[StepRow] = []
        self._sampled: list[int] = []

    def on_event(self, event: EngineEvent) -> None:
        """Hear an event of the engine: the step under way, if any, has produced its tokens."""
        self._settle()
        if event.kind == "arrive":
            self._open += 1
            self._remember(event)
        elif event.kind in ("finish", "cancel"):
            self._open -= 1

    def seconds_of(self, request_id: int) -> float:
        """Device seconds charged to a request so far; of one that ended long ago, 0."""
        return self._request_s.get(request_id, 0.0)

    def seconds_of_named(self, name: str) -> float:
        """The same by the caller's own name of the request; 0 for one that never came."""
        number = self._numbers.get(name)
        return 0.0 if number is None else self.seconds_of(number)

    def step_begins(self) -> None:
        """What came before belongs to the step before, or to nobody."""
        self._settle()

    def step_ran(self, rows: list[StepRow], sampled: list[int]) -> None:
        """A step has run; its tokens are still to be drawn."""
        self._rows += rows
        self._sampled += sampled

    def close(self) -> None:
        """Charge what is left and write the ledger's last window."""
        self._settle()
        self._ledger.close()

    def _remember(self, event: EngineEvent) -> None:
        """Note the number of a request that has a name of its caller's."""
        if event.id:
            self._numbers[event.id] = event.request_id
            while len(self._numbers) > REMEMBERED:
                self._numbers.popitem(last=False)

    def _settle(self) -> None:
        now_s = self._clock()
        if not self._rows:
            self._ledger.wait(now_s, in_flight=self._open > 0)
            return
        rows, sampled = self._rows, self._sampled
        self._rows, self._sampled = [], []
        for row, share in zip(rows, self._ledger.charge(now_s, rows, output_tokens=sampled), strict=True):
            self.device_s[row.tenant] = self.device_s.get(row.tenant, 0.0) + share
            self._request_s[row.request] = self._request_s.pop(row.request, 0.0) + share
        while len(self._request_s) > REMEMBERED:
            self._request_s.popitem(last=False)


class MeteredExecutor(PlanTap):
    """An engine's executor that tells a meter of every step."""

    def __init__(self, executor: Executor, meter: Meter, *, rank_of: Callable[[str], int]) -> None:
        super().__init__(executor, rank_of=rank_of)
        self._meter = meter

    def execute(self, plan: Plan) -> Tensor:
        """Run the plan and tell the meter."""
        self._meter.step_begins()
        logits = super().execute(plan)
        self._meter.step_ran(*self.take())
        return logits
