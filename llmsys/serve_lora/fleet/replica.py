"""The far side of a gateway: one engine that does the work of one connection, and says twice a second how it is.

Every piece of work is a stream of the engine; what comes out of a step goes into one message. Work ends when it is
cancelled, and all of it when the connection does. Knows nothing of other replicas, of processes or of placement.
"""

import asyncio
import tempfile
from collections.abc import Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llmsys.engine.errors import AdapterError, EngineError, RequestError
from llmsys.engine.parts import TextCodec
from llmsys.engine.server_loop import AsyncEngine
from llmsys.engine.tokens import Tokenizer
from llmsys.errors import Unavailable
from llmsys.serve_lora.fleet.adapter_book import AdapterBook
from llmsys.serve_lora.fleet.messages import (
    Cancel,
    FromReplica,
    Pins,
    Ready,
    Refused,
    Report,
    Said,
    Spent,
    Texts,
    Tokens,
    ToReplica,
    WantTexts,
    Work,
    read_message,
    said_of,
    write_message,
)
from llmsys.serve_lora.server.backend import Loaded, make_masks
from llmsys.serve_lora.server.jobs import MakeMask

__all__ = ["Replica"]

REPORT_S = 0.5


@dataclass(frozen=True, slots=True)
class Replica:
    """An engine that is running behind `door`; stages_s: how long each stage of its start took."""

    loaded: Loaded
    door: AsyncEngine
    stages_s: Mapping[str, float]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do a connection's work until it ends; then nothing of it is running."""
        await _Conversation(self, reader, writer).run()


class _Conversation:
    """One connection: its work by number, and what is to be sent."""

    def __init__(self, replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loaded = replica.loaded
        self._replica, self._reader, self._writer = replica, reader, writer
        self._adapters = AdapterBook(replica.door, loaded.pool, loaded.shelf, loaded.ranks)
        self._masks: MakeMask | None = make_masks(loaded)
        self._running: dict[int, asyncio.Task[None]] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._said: list[Said] = []
        self._has_said = asyncio.Event()

    async def run(self) -> None:
        """Read until the end, sending and reporting meanwhile."""
        self._send(self._ready())
        helpers = [asyncio.create_task(self._send_tokens()), asyncio.create_task(self._report())]
        decoder: msgspec.msgpack.Decoder[ToReplica] = msgspec.msgpack.Decoder(ToReplica)
        try:
            while True:
                await self._take(await read_message(self._reader, decoder))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            tasks = (*self._running.values(), *self._settling, *helpers)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writer.close()

    async def _take(self, message: ToReplica) -> None:
        if isinstance(message, Work):
            task = asyncio.create_task(self._do(message))
            self._running[message.number] = task
            task.add_done_callback(lambda _: self._done(message.number))
        elif isinstance(message, Cancel):
            if (running := self._running.get(message.number)) is not None:
                running.cancel()
            self._go(self._settle(message.number, running))
        elif isinstance(message, Pins):
            await self._adapters.hold(message.held, message.forgotten)
        else:
            assert isinstance(message, WantTexts)
            self._send(Texts(await asyncio.to_thread(_files, self._replica.loaded.engine.tokenizer)))

    async def _do(self, work: Work) -> None:
        """One piece of work, to its end or its refusal."""
        try:
            if work.adapter is not None:
                await self._adapters.prepare(work.adapter, resumed=bool(work.output))
            mask = None
            if work.schema is not None and self._masks is not None:
                mask = await asyncio.to_thread(self._masks, work.schema, len(work.prompt))
            async with aclosing(self._replica.door.stream(work.request(mask))) as events:
                async for event in events:
                    spent_s = self._replica.loaded.meter.seconds_of(event.request_id) if event.finish else 0.0
                    self._said.append(said_of(work.number, event, spent_s))
                    self._has_said.set()
        except (EngineError, Unavailable, TypeError) as error:
            self._refuse(work.number, error)

    async def _settle(self, number: int, running: asyncio.Task[None] | None) -> None:
        """Say what cancelled work was charged, the step under way included."""
        if running is not None:
            await asyncio.wait((running,))
        meter = self._replica.loaded.meter
        with suppress(EngineError):
            self._send(Spent(number, await self._replica.door.call(lambda _: meter.seconds_of_named(str(number)))))

    def _go(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def _done(self, number: int) -> None:
        """Forget a piece of work; where it was the last, say so before the connection may end."""
        self._running.pop(number, None)
        if not self._running:
            self._flush()
            self._send(self._state())

    def _refuse(self, number: int, error: Exception) -> None:
        kind = "engine"
        if isinstance(error, AdapterError):
            kind = "adapter"
        elif isinstance(error, RequestError | Unavailable | TypeError):
            kind = "request"
        self._flush()
        self._send(Refused(number, kind, str(error)))

    async def _send_tokens(self) -> None:
        """Send what all streams had to say since the last time: the engine hands a step's events out at once."""
        while True:
            await self._has_said.wait()
            await asyncio.sleep(0)
            self._flush()
            with suppress(ConnectionError):
                await self._writer.drain()

    def _flush(self) -> None:
        said, self._said = self._said, []
        self._has_said.clear()
        if said:
            self._send(Tokens(said))

    async def _report(self) -> None:
        while True:
            self._send(self._state())
            await asyncio.sleep(REPORT_S)

    def _send(self, message: FromReplica) -> None:
        if not self._writer.is_closing():
            write_message(self._writer, message)

    def _ready(self) -> Ready:
        engine = self._replica.loaded.engine
        counts = engine.stats().blocks
        return Ready(
            vocab_size=self._replica.loaded.model.vocab,
            max_len=engine.max_len,
            kv_tokens=counts.total * engine.config.block_tokens,
            max_sequences=engine.config.max_sequences,
            lora_slots=engine.config.lora_slots,
            stages_s=dict(self._replica.stages_s),
        )

    def _state(self) -> Report:
        loaded, stats = self._replica.loaded, self._replica.door.stats()
        return Report(
            running=stats.running,
            waiting=stats.waiting,
            blocks_free=stats.blocks.free,
            blocks_cached=stats.blocks.cached,
            blocks_referenced=stats.blocks.referenced,
            blocks_total=stats.blocks.total,
            adapters=dict(stats.adapters),
            resident=list(loaded.pool.resident()),
            references=loaded.pool.references(),
            steps=stats.steps,
            prompt_tokens=stats.prompt_tokens,
            cached_tokens=stats.cached_tokens,
            output_tokens=stats.output_tokens,
            preemptions=stats.preemptions,
            finished=stats.finished,
            device_s=loaded.meter.device_s.copy(),
            work_s={number: loaded.meter.seconds_of_named(str(number)) for number in self._running},
            reads=loaded.shelf.reads,
            late_reads=loaded.shelf.late_reads,
        )


def _files(tokenizer: TextCodec) -> dict[str, bytes]:
    """What `Tokenizer.save` writes; nothing of a tokenizer that cannot."""
    if not isinstance(tokenizer, Tokenizer):
        return {}
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save(Path(place))
        return {file.name: file.read_bytes() for file in Path(place).iterdir()}
