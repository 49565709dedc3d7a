"""Real processes for the tests: a function of `programs` on every rank, with a pipe to each."""

from contextlib import contextmanager
from tempfile import TemporaryDirectory

ANSWER_S = 120  # a deadlock fails here; nothing is decided by it


class Rank:
    """One process: `ask` sends a request and `answer` takes what came back (pickled: both ends are ours)."""

    def __init__(self, child):
        self.child = child
        self.pid = child.pid

    def ask(self, *request):
        self.child.pipe.send(request)

    def answer(self):
        assert self.child.pipe.poll(ANSWER_S), f"pid {self.pid} is silent"
        return self.child.pipe.recv()


@contextmanager
def started(nursery, program, count, **options):
    """`count` processes that run programs.PROGRAM(pipe, number=…, meeting=…, **options), and a place to meet."""
    with TemporaryDirectory() as meeting:
        found = []
        for number in range(count):
            arguments = {"number": number, "meeting": meeting, **options}
            found.append(Rank(nursery.start(f"tests.moe_train.train.programs:{program}", arguments)))
        try:
            yield found
        finally:
            for rank in found:
                rank.child.close()
