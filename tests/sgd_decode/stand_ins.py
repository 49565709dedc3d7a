"""A backend that the test itself turns the handle of, and questions for it."""

import asyncio
from queue import SimpleQueue

from llmsys.sgd_decode import Question, ScriptBackend


def question(number, text="Why?", **fields):
    return Question(number, f"q{number}", [{"role": "user", "content": text}], **fields)


class Cranked(ScriptBackend):
    """A script whose steps are played one by one, when the test allows them: nothing of it depends on a clock."""

    def __init__(self, rules, **settings):
        super().__init__(rules, **settings)
        self._turns = SimpleQueue()

    @property
    def running(self):
        """Jobs that have begun and not ended."""
        return sorted(self._running)

    def crank(self, turns=1):
        """Allow so many more steps."""
        for _ in range(turns):
            self._turns.put(None)

    def wait(self, timeout_s=None):
        if timeout_s is not None and self._turns.empty():
            return []
        self._turns.get()
        return super().wait()


async def until(holds):
    """Wait for something that another thread will bring about; the suite's own time limit ends what never comes."""
    while not holds():
        await asyncio.sleep(0)
