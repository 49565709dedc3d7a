"""Stand-ins for the parts outside the engine's control side, and the real models that many tests share.

The runner is a 'language model' made of hashes: the state at a position depends on every token before it and on the
adapter, and it is read from the stored row, never recomputed. So any mistake with rows, prefixes, forks or preemption
changes the tokens that follow.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.errors import AdapterBusy, AdapterError
from llmsys.engine.sequence import Chunk, Plan, Request, SamplingParams, Sequence

FIXTURES = Path(__file__).parents[2] / "fixtures"
VOCAB = 259
EOS = 256
ADAPTER_BYTES = 10


class ByteTokenizer:
    """One token per byte of UTF-8; token 256 ends an answer and has no text."""

    eos_ids = frozenset({EOS})

    def encode(self, text):
        return list(text.encode())

    def apply_chat(self, messages):
        return [257, *"\n".join(f"{m['role']}: {m['content']}" for m in messages).encode()]

    def decode(self, ids):
        return bytes(i for i in ids if i < EOS).decode("utf-8", "replace")


class Slots:
    """Adapter slots with reference counts, as many as asked for; loading an adapter named bad* fails."""

    def __init__(self, slots=4):
        self.holds = Counter()
        self.content = {}
        self._paths = {}
        self._slots = slots
        self._by_digest = {}
        self.budget = None

    def register(self, name, path):
        self._paths[name] = str(path)

    def names(self):
        return tuple(self._paths)

    def digest(self, name):
        return f"{name}@{self._paths[name]}".encode()

    def acquire(self, name):
        if name.startswith("bad"):
            raise AdapterError(f"adapter {name!r} has rank 999")
        slot = self._by_digest.get(self.digest(name))
        if slot is None:
            slot = self._place(self.digest(name))
        self.holds[slot] += 1
        return slot

    def _place(self, digest):
        """The first slot that nobody holds; with a common budget, one whose memory was taken from it."""
        free = [slot for slot in range(self._slots) if not self.holds[slot]]
        if not free:
            raise AdapterBusy("every slot is held")
        slot = free[0]
        if self.budget is not None and slot not in self.content:
            while not self.budget.take(ADAPTER_BYTES):
                if not self.shed():
                    raise AdapterBusy("all memory is in use")
        self._by_digest = {d: s for d, s in self._by_digest.items() if s != slot} | {digest: slot}
        self.content[slot] = digest
        return slot

    def is_resident(self, name):
        return self.digest(name) in self._by_digest

    def is_ready(self, name):
        return True

    def bytes_of(self, rank):
        return ADAPTER_BYTES

    def share(self, budget):
        self.budget = budget

    def shed(self):
        idle = [slot for slot in self.content if not self.holds[slot]]
        if self.budget is None or not idle:
            return False
        gone = self.content.pop(idle[0])
        del self._by_digest[gone]
        self.budget.give_back(ADAPTER_BYTES)
        return True

    def release(self, slot):
        self.holds[slot] -= 1
        assert self.holds[slot] >= 0


def follow(state, token, adapter):
    return blake2b(state + int(token).to_bytes(4, "little") + adapter, digest_size=8).digest()


def logits_of(state, vocab=VOCAB):
    return np.random.default_rng(int.from_bytes(state)).normal(scale=3.0, size=vocab).astype(np.float32)


@dataclass
class HashRunner:
    """Rows of hash states in place of keys and values; refuses more rows or tokens than it was given."""

    slots: Slots
    max_rows: int = 1 << 30
    max_len: int = 512
    vocab_size: int = VOCAB
    rows: dict = field(default_factory=dict)
    plans: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    poisoned: set = field(default_factory=set)

    def release(self, sequence_id):
        self.rows.pop(sequence_id, None)

    def copy_prefix(self, source_id, target_id, tokens):
        assert len(self.rows[source_id]) >= tokens > 0
        assert target_id not in self.rows
        self.rows[target_id] = self.rows[source_id][:tokens]
        assert len(self.rows) <= self.max_rows

    def execute(self, plan):
        if self.faults and (fault := self.faults.pop(0)):
            raise fault
        ids = [chunk.sequence.id for chunk in plan.chunks]
        assert len(set(ids)) == len(ids)
        self.plans.append([(c.sequence.id, c.start, c.count, c.samples) for c in plan.chunks])
        return torch.from_numpy(np.array([row for chunk in plan.chunks for row in self._compute(chunk)], np.float32))

    def _compute(self, chunk):
        sequence = chunk.sequence
        row = self.rows.setdefault(sequence.id, [])
        assert len(self.rows) <= self.max_rows
        assert len(row) >= chunk.start
        assert chunk.count >= 1
        assert chunk.start + chunk.count <= len(sequence.token_ids)
        del row[chunk.start :]
        adapter = self.slots.content[sequence.adapter_slot] if sequence.adapter_slot >= 0 else b""
        for token in sequence.token_ids[chunk.start : chunk.start + chunk.count]:
            row.append(follow(row[-1] if row else b"", token, adapter))
        wanted = [logits_of(state, self.vocab_size) for state in row[len(row) - chunk.rows :]]
        return [logits * np.nan for logits in wanted] if sequence.id in self.poisoned else wanted


def expected_greedy(prompt, tokens, adapter=b""):
    """What greedy decoding must give: the definition, without rows, chunks or batches."""
    state = b""
    for token in prompt:
        state = follow(state, token, adapter)
    out = []
    for _ in range(tokens):
        out.append(int(logits_of(state).argmax()))
        state = follow(state, out[-1], adapter)
    return tuple(out)


def make_engine(*, blocks=64, slots=4, max_len=512, shared=False, block_bytes=0, on_event=None, **settings):
    """An engine over the stand-ins; `engine.runner` and `engine.slots` are theirs. block_bytes: one budget for all."""
    config = EngineConfig(**{"block_tokens": 4, "max_sequences": 8, "spare_rows": 8, "max_batch_tokens": 32} | settings)
    pool = Slots(slots)
    for name in ("fr", "de", "it", "es", "bad"):
        pool.register(name, f"/adapters/{name}")
    runner = HashRunner(pool, max_rows=config.kv_rows, max_len=max_len)
    ticks = iter(range(1 << 60))
    engine = Engine(
        runner,
        ByteTokenizer(),
        pool,
        config,
        blocks=blocks,
        model=b"model",
        shared_blocks=shared,
        block_bytes=block_bytes,
        clock=lambda: float(next(ticks)),
        on_event=on_event,
    )
    engine.runner, engine.slots = runner, pool
    return engine


def greedy_request(prompt, tokens=12, **fields):
    """A request whose tokens `expected_greedy` foretells."""
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return Request(prompt, params, **fields)


def drain(engine, into=None):
    """Step until nothing is left; return all events."""
    events = [] if into is None else into
    for _ in range(2000):
        if not engine.busy:
            return events
        events += engine.step()
    raise AssertionError("the engine makes no progress")


def tokens_of(events, request_id, index=0):
    """The tokens of one choice of one request, in the order of its events."""
    return tuple(e.token_id for e in events if (e.request_id, e.index) == (request_id, index) and e.token_id >= 0)


def check_blocks(blocks):
    """Invariant 1 by counting anew: every block is in one state, and each count is what the tables say."""
    used, kept = Counter(), Counter()
    for _, table, retained in blocks.tables():
        assert len(set(table)) == len(table)
        (kept if retained else used).update(table)
    counts = blocks.counts
    assert counts.free + counts.cached + counts.referenced + counts.lent == counts.total
    assert counts.referenced == len(used)
    assert counts.cached == len(set(kept) - set(used))
    assert all(blocks.ref_count(block) == used[block] for block in range(counts.total))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Small tensors: waiting for a second thread costs more than it brings, above all under xdist."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def parts():
    """Everything above, by name."""
    names = (ByteTokenizer, Slots, HashRunner, make_engine, expected_greedy, check_blocks, logits_of, follow)
    drivers = (greedy_request, drain, tokens_of)
    return SimpleNamespace(**{item.__name__: item for item in (*names, *drivers)}, VOCAB=VOCAB, EOS=EOS)


def decode_greedily(runner, prompts, *, new_tokens, eos_ids=frozenset(), slots=None, chunk_tokens=10_000):
    """Greedy continuations of all prompts in one batch: a list of token ids per prompt, ended by an eos token."""
    slots = slots or [-1] * len(prompts)
    sequences = [
        Sequence(
            id=index, request=Request(prompt=list(ids)), token_ids=list(ids), prompt_tokens=len(ids), adapter_slot=slot
        )
        for index, (ids, slot) in enumerate(zip(prompts, slots, strict=True))
    ]
    for sequence in sequences:
        while sequence.pending_tokens > 1:
            count = min(chunk_tokens, sequence.pending_tokens - 1)
            runner.execute(Plan((Chunk(sequence, sequence.computed_tokens, count, samples=False),)))
            sequence.computed_tokens += count
    live = list(sequences)
    for _ in range(new_tokens):
        plan = Plan(tuple(Chunk(s, s.computed_tokens, 1, samples=True) for s in live))
        chosen = runner.execute(plan).argmax(dim=-1).tolist()
        for sequence, token in zip(live, chosen, strict=True):
            sequence.computed_tokens += 1
            sequence.token_ids.append(token)
            if token in eos_ids:
                runner.release(sequence.id)
        live = [s for s in live if s.token_ids[-1] not in eos_ids]
        if not live:
            break
    for sequence in sequences:
        runner.release(sequence.id)
    return [sequence.token_ids[sequence.prompt_tokens :] for sequence in sequences]


@pytest.fixture(scope="session")
def greedy():
    """`decode_greedily`: drives a runner the way the engine does, without scheduler or sampler."""
    return decode_greedily


@pytest.fixture(scope="session")
def smollm2():
    """The embedded model in float32."""
    from llmsys.engine.loader import load_model

    return load_model("smollm2", device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="session")
def reference():
    """transformers' own SmolLM2 in float32, read from the same file."""
    from transformers import AutoModelForCausalLM

    from llmsys.gpu import find_model

    path = find_model("smollm2")
    return AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def prompts(smollm2):
    """Forty real questions as chat prompts, token ids."""
    lines = (FIXTURES / "vicuna40.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    return [smollm2.tokenizer.apply_chat([{"role": "user", "content": text}]) for text in questions]
