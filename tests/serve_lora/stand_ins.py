"""A model that spells: its answer repeats the prompt's bytes, with the adapter's mark before them.

Stands in for weights and tokenizer alone; the engine around it is the real one.
"""

import torch

from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.errors import AdapterBusy

VOCAB, EOS = 258, 256


class ByteCodec:
    """One token per byte; 256 ends an answer."""

    eos_ids = frozenset({EOS})

    def encode(self, text):
        return list(text.encode())

    def apply_chat(self, messages):
        return list(messages[-1]["content"].encode())

    def decode(self, ids):
        return bytes(i for i in ids if i < EOS).decode("utf-8", "replace")


class Marks:
    """Adapter slots; slot n marks answers with the n-th letter."""

    def __init__(self, names, slots=2):
        self._names = list(names)
        self._held = []
        self._slots = slots

    def register(self, name, path):
        self._names.append(name)

    def names(self):
        return tuple(self._names)

    def digest(self, name):
        return name.encode()

    def acquire(self, name):
        slot = self._names.index(name)
        if slot not in self._held and len(set(self._held)) >= self._slots:
            raise AdapterBusy("every slot is held")
        self._held.append(slot)
        return slot

    def is_resident(self, name):
        return self._names.index(name) in self._held

    def is_ready(self, name):
        return True

    def release(self, slot):
        self._held.remove(slot)

    def shed(self):
        return False


class Speller:
    """Logits that repeat the prompt once, then end; an adapter's first letter is its slot's letter."""

    vocab_size = VOCAB
    max_len = 256

    def __init__(self, on_step=lambda: None):
        self._on_step = on_step

    def execute(self, plan):
        self._on_step()
        rows = [self._row(chunk) for chunk in plan.chunks if chunk.samples]
        return torch.stack(rows) if rows else torch.empty(0, VOCAB)

    def _row(self, chunk):
        sequence = chunk.sequence
        prompt = sequence.token_ids[: sequence.prompt_tokens]
        mark = [ord("A") + sequence.adapter_slot] if sequence.adapter_slot >= 0 else []
        answer = [*mark, *prompt, EOS]
        logits = torch.zeros(VOCAB)
        logits[answer[chunk.start + chunk.count - sequence.prompt_tokens]] = 50.0
        return logits

    def release(self, sequence_id):
        pass

    def copy_prefix(self, source_id, target_id, tokens):
        pass


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def pass_s(self, seconds):
        self.now_s += seconds


def engine_of(runner, *, adapters=(), clock, on_event=None, **settings):
    config = EngineConfig(**{"max_sequences": 4, "block_tokens": 4} | settings)
    return Engine(runner, ByteCodec(), Marks(adapters), config, blocks=256, clock=clock, on_event=on_event)
