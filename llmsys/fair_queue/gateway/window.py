"""How much a gateway sends ahead to one backend: a number of requests or tokens, or one that finds itself.

The backend's own queue is first come, first served, so what waits there is lost to fairness; what it could run and does
not get is lost to throughput. `auto` raises the window while it is full and the backend reports nobody waiting, and
lowers it by those who wait. Without such a report it looks at times to the first token, which grow when requests queue.
"""

from dataclasses import dataclass

from llmsys.errors import UsageFault

__all__ = ["Window", "WindowSpec", "parse_window", "waiting_in"]

AUTO_START = 8
AUTO_MOST = 4096
GROWTH = 0.1
SLOW_TTFT = 2.0
QUEUE_NAMES = ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred")


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """`auto`, or a fixed number of `requests` or of `tokens` per backend."""

    text: str
    auto: bool = False
    requests: int = 0
    tokens: int = 0


def parse_window(text: str) -> WindowSpec:
    """Read auto, N or Ntok. Raises UsageFault for anything else.

    >>> parse_window("12"), parse_window("4000tok").tokens
    (WindowSpec(text='12', auto=False, requests=12, tokens=0), 4000)
    """
    if text == "auto":
        return WindowSpec(text, auto=True)
    number = text.removesuffix("tok")
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise UsageFault(f"window {text!r} is not auto, N requests or Ntok tokens, as in auto, 16 or 20000tok")
    if text.endswith("tok"):
        return WindowSpec(text, tokens=int(number))
    return WindowSpec(text, requests=int(number))


class Window:
    """What runs at one backend, and how much more may."""

    __slots__ = ("_best_ttft_s", "_full", "_limit", "_mean_ttft_s", "_spec", "requests", "tokens")

    def __init__(self, spec: WindowSpec) -> None:
        self._spec = spec
        self._limit = AUTO_START if spec.auto else spec.requests
        self._full = False
        self._best_ttft_s = 0.0
        self._mean_ttft_s = 0.0
        self.requests = 0
        self.tokens = 0

    @property
    def limit(self) -> int:
        """The window now, in requests, or in tokens where it is given so."""
        return self._spec.tokens or self._limit

    def fits(self, tokens: int) -> bool:
        """Whether a request of so many tokens may be sent now."""
        if self._spec.tokens:
            return self.tokens + tokens <= self._spec.tokens
        if self.requests < self._limit:
            return True
        self._full = True
        return False

    def could_fit(self, tokens: int) -> bool:
        """Whether a request of so many tokens may ever be sent."""
        return not self._spec.tokens or tokens <= self._spec.tokens

    def take(self, tokens: int) -> None:
        """A request is sent."""
        self.requests += 1
        self.tokens += tokens

    def release(self, tokens: int) -> None:
        """A request has ended."""
        self.requests -= 1
        self.tokens -= tokens

    def first_token(self, after_s: float) -> None:
        """A stream's first byte came `after_s` seconds after it was sent."""
        self._mean_ttft_s = after_s if not self._mean_ttft_s else 0.9 * self._mean_ttft_s + 0.1 * after_s
        best = self._best_ttft_s
        # the floor rises slowly, so that longer prompts are not taken for a queue for ever
        self._best_ttft_s = after_s if not best else min(after_s, best * 1.01)

    def adapt(self, waiting: int | None) -> None:
        """Once a second: move an automatic window; `waiting` is what the backend reports, None if it does not."""
        if not self._spec.auto:
            return
        if waiting is not None:
            queued = waiting
        else:
            slow = self._mean_ttft_s > SLOW_TTFT * self._best_ttft_s > 0
            queued = max(1, round(self._limit * GROWTH)) if slow else 0
        if queued:
            self._limit = max(1, min(self._limit, self.requests or 1) - queued)
        elif self._full:
            self._limit = min(AUTO_MOST, self._limit + max(1, round(self._limit * GROWTH)))
        self._full = False


def waiting_in(metrics: bytes) -> int | None:
    """How many requests a backend's Prometheus text says are waiting there; None if it does not say."""
    found: float | None = None
    for line in metrics.decode("utf-8", "replace").splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in QUEUE_NAMES:
            try:
                found = (found or 0.0) + float(line.rsplit(None, 1)[-1])
            except ValueError:
                continue
    return None if found is None else round(found)
