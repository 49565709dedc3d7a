"""What a gateway and its replicas say to each other: one MessagePack value after another, each behind its length.

One connection per replica carries all of its requests: the tokens of a step are one message however many requests
they belong to. A request names its adapter by path, generation and digest, as the gateway alone knows names. Knows
nothing of sockets beyond the stream that it is given.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import fields
from typing import TypeAlias, TypeVar

import msgspec

from llmsys.engine.json_grammar import JsonMask
from llmsys.engine.sequence import Request, SamplingParams, TokenEvent

__all__ = [
    "AdapterRef",
    "Cancel",
    "FromReplica",
    "Pins",
    "Ready",
    "Refused",
    "Report",
    "Said",
    "Spent",
    "Texts",
    "ToReplica",
    "Tokens",
    "WantTexts",
    "Work",
    "read_message",
    "said_of",
    "work_of",
    "write_message",
]

M = TypeVar("M")
HEAD_BYTES = 4
LARGEST_BYTES = 1 << 28
OTHERWISE_CARRIED = {"logits_processor"}


class AdapterRef(msgspec.Struct, frozen=True, array_like=True):
    """An adapter as the gateway checked it: its directory, how often the name was given anew, its digest."""

    name: str
    path: str
    generation: int
    digest: str


class Work(msgspec.Struct, frozen=True, tag=True):
    """A request, or what is left of one: `output` came out elsewhere. schema: of the JSON that it is held to."""

    number: int
    prompt: list[int]
    sampling: dict[str, object]
    tenant: str
    adapter: AdapterRef | None = None
    schema: Mapping[str, object] | None = None
    cache_salt: str = ""
    output: list[int] = []
    choice: int = 0

    def request(self, mask: JsonMask | None) -> Request:
        """The engine's request; `mask` is that of the schema. Raises RequestError, TypeError for what is none."""
        sampling = SamplingParams(**self.sampling, logits_processor=mask)  # type: ignore[arg-type]
        return Request(
            self.prompt,
            sampling,
            adapter=self.adapter.name if self.adapter else None,
            tenant=self.tenant,
            id=str(self.number),
            cache_salt=self.cache_salt,
            output=self.output,
            choice=self.choice,
        )


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Nobody waits for this work any more."""

    number: int


class Pins(msgspec.Struct, frozen=True, tag=True):
    """The adapters that keep their slots from now on; forgotten: names that may go."""

    held: list[AdapterRef]
    forgotten: list[str] = []


class WantTexts(msgspec.Struct, frozen=True, tag=True):
    """Asks for the tokenizer."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A replica's first message: what it can hold, and the seconds of its start by stage."""

    vocab_size: int
    max_len: int
    kv_tokens: int
    max_sequences: int
    lora_slots: int
    stages_s: dict[str, float]


class Texts(msgspec.Struct, frozen=True, tag=True):
    """The tokenizer's files by name; empty where the model's tokenizer has none."""

    files: dict[str, bytes]


class Said(msgspec.Struct, frozen=True, array_like=True):
    """One event of one piece of work; `index` is the engine's, of the work's own choices. device_s: with the end."""

    number: int
    index: int
    token_id: int
    text: str
    logprob: float | None
    tops: tuple[tuple[int, float], ...]
    finish: str | None
    error: str | None
    prompt_tokens: int
    cached_tokens: int
    device_s: float


class Tokens(msgspec.Struct, frozen=True, tag=True):
    """What came out of a step."""

    said: list[Said]


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Work that cannot run here. kind: request, adapter, or engine."""

    number: int
    kind: str
    message: str


class Spent(msgspec.Struct, frozen=True, tag=True):
    """What cancelled work was charged; the step that was under way is in it."""

    number: int
    device_s: float


class Report(msgspec.Struct, frozen=True, tag=True):
    """How a replica is, twice a second; counts are from its start.

    adapters: running sequences by name. work_s: device seconds so far of the work that is not done.
    """

    running: int
    waiting: int
    blocks_free: int
    blocks_cached: int
    blocks_referenced: int
    blocks_total: int
    adapters: dict[str, int]
    resident: list[str]
    references: int
    steps: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    preemptions: int
    finished: int
    device_s: dict[str, float]
    work_s: dict[int, float]
    reads: int
    late_reads: int


ToReplica: TypeAlias = Work | Cancel | Pins | WantTexts
FromReplica: TypeAlias = Ready | Texts | Tokens | Refused | Spent | Report


def work_of(request: Request, number: int, adapter: AdapterRef | None) -> Work:
    """The message of a whole request, its prompt as token ids."""
    params = request.sampling
    told = {field.name: getattr(params, field.name) for field in fields(params) if field.name not in OTHERWISE_CARRIED}
    mask = params.logits_processor
    return Work(
        number=number,
        prompt=[token for token in request.prompt if isinstance(token, int)],
        sampling=told,
        tenant=request.tenant,
        adapter=adapter,
        schema=mask.schema if isinstance(mask, JsonMask) else None,
        cache_salt=request.cache_salt,
    )


def said_of(number: int, event: TokenEvent, device_s: float) -> Said:
    """One event of the engine as part of a message."""
    return Said(
        number,
        event.index,
        event.token_id,
        event.text,
        event.logprob,
        event.top_logprobs,
        event.finish,
        event.error,
        event.prompt_tokens,
        event.cached_tokens,
        device_s,
    )


def write_message(writer: asyncio.StreamWriter, message: ToReplica | FromReplica) -> None:
    """Put a message into a stream; it waits for nothing."""
    content = msgspec.msgpack.encode(message)
    writer.write(len(content).to_bytes(HEAD_BYTES, "big") + content)


async def read_message(reader: asyncio.StreamReader, decoder: "msgspec.msgpack.Decoder[M]") -> M:
    """The next message. Raises IncompleteReadError at the end, msgspec.DecodeError or ValueError for what is none."""
    size = int.from_bytes(await reader.readexactly(HEAD_BYTES), "big")
    if size > LARGEST_BYTES:
        raise ValueError(f"a message of {size} bytes; expected at most {LARGEST_BYTES}")
    return decoder.decode(await reader.readexactly(size))
