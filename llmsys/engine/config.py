"""Every setting of one engine, checked when it is made.

Knows nothing about models: what depends on the device or the model is left None here and resolved by `Engine.load`.
"""

from dataclasses import dataclass, field

from llmsys.engine.errors import RequestError
from llmsys.engine.policy import FirstComeFirstServed, Policy

__all__ = ["EngineConfig"]

QUANTS = ("auto", "none", "int4")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of one engine; a value that cannot work raises RequestError with the range.

    max_batch_tokens: tokens of one step, decode rows and prefill chunks together; None is 256 on a CPU, 512 elsewhere.
    max_sequences: sequences that run at once. spare_rows: further sequences whose keys and values are kept while they
    are parked, or finished and still of use as a cached prefix. kv_memory_bytes: the budget of keys and values; None is
    a quarter of the free memory. memory_bytes: instead of that, one budget of keys, values and resident adapters, in
    which each has what the others leave (on a CPU). max_preemptions: after so many a request reserves its whole length
    and is left alone. max_waiting: the queue's bound, past which `add` raises CapacityError. max_finished: finished
    sequences whose tokens are remembered, so that they can be extended or forked. lora_slots and lora_cpu_bytes:
    adapters, and bytes of them, that are resident at once; lora_rank_max: the largest rank that is taken. cache_bytes:
    bound of the converted models that are kept under $XDG_CACHE_HOME/llmsys, so that the next load takes a second; 0
    keeps none and reads none. quant: "auto" computes steps of a few rows with a file's own 4-bit codes, if it has any:
    two to three times as fast, and nearer to the file than bfloat16; "none" never does; "int4" also makes codes of
    weights that have none, which moves them by some percent (a warning says how far), and wants bfloat16 on a CPU.
    batch_invariant: a request's logits have the same bits whatever runs beside it and however its prompt is cut or
    cached; without the file's 4-bit codes unless quant is "int4", and slower, prompts above all.
    """

    device: str = "auto"
    dtype: str = "auto"
    max_batch_tokens: int | None = None
    max_sequences: int = 64
    spare_rows: int = 64
    max_len: int | None = None
    kv_memory_bytes: int | None = None
    memory_bytes: int | None = None
    block_tokens: int = 16
    prefix_cache: bool = True
    chunked_prefill: bool = True
    quant: str = "auto"
    batch_invariant: bool = False
    lora_slots: int = 32
    lora_rank_max: int = 64
    lora_cpu_bytes: int = 2 << 30
    max_waiting: int = 10_000
    max_preemptions: int = 4
    max_finished: int = 1024
    cache_bytes: int = 8 << 30
    seed: int = 0
    policy: Policy = field(default_factory=FirstComeFirstServed)

    def __post_init__(self) -> None:
        least = {
            "max_batch_tokens": 1,
            "max_sequences": 1,
            "spare_rows": 0,
            "max_len": 2,
            "kv_memory_bytes": 1,
            "memory_bytes": 1,
            "block_tokens": 1,
            "lora_slots": 0,
            "lora_rank_max": 1,
            "lora_cpu_bytes": 0,
            "max_waiting": 1,
            "max_preemptions": 0,
            "max_finished": 0,
            "cache_bytes": 0,
            "seed": 0,
        }
        if self.quant not in QUANTS:
            raise RequestError(f"quant is {self.quant!r}; expected one of {', '.join(QUANTS)}")
        if self.memory_bytes is not None and self.kv_memory_bytes is not None:
            raise RequestError("memory_bytes and kv_memory_bytes are both given; expected one of them")
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise RequestError(f"{name} is {value}; expected {bound} or more")

    @property
    def kv_rows(self) -> int:
        """Sequences whose keys and values may exist at once: running, parked and retained."""
        return self.max_sequences + self.spare_rows

    def batch_tokens(self, device_type: str) -> int:
        """Return the token budget of a step on a device of type "cpu" or "cuda".

        >>> EngineConfig().batch_tokens("cpu")
        256
        """
        if self.max_batch_tokens is not None:
            return self.max_batch_tokens
        return 256 if device_type == "cpu" else 512
