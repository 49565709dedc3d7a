"""The near side of a connection to one replica: work out, tokens and reports in, and one call when it is lost.

A replica says twice a second how it is; one that is silent for longer than its owner bears is lost, whether or not
its connection still stands: a process that was stopped or hangs keeps it open for ever.
Knows nothing of placement or of what the work is for.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

from llmsys.errors import LlmsysError
from llmsys.serve_lora.fleet.messages import (
    FromReplica,
    Ready,
    Refused,
    Report,
    Said,
    Spent,
    Texts,
    Tokens,
    ToReplica,
    WantTexts,
    read_message,
    write_message,
)

__all__ = ["SILENCE_S", "Link", "LinkEvents"]

SILENCE_S = 30.0


class LinkEvents:
    """What a connection tells its owner; each is called in the order of what came."""

    def __init__(
        self,
        *,
        said: Callable[[Said], None],
        refused: Callable[[Refused], None],
        spent: Callable[[Spent], None],
        lost: Callable[[], None],
    ) -> None:
        self.said, self.refused, self.spent, self.lost = said, refused, spent, lost


class Link:
    """An open connection; `ready` is the replica's first message, `report` its last one about itself."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ready: Ready, silence_s: float
    ) -> None:
        self.ready = ready
        self.report: Report | None = None
        self._reader, self._writer, self._silence_s = reader, writer, silence_s
        self._texts: asyncio.Future[dict[str, bytes]] | None = None
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, address: str, secret: str, *, silence_s: float = SILENCE_S) -> Self:
        """Connect to `unix:PATH` or `HOST:PORT` and wait for the replica. Raises OSError, LlmsysError.

        silence_s: seconds without a word after which it is lost.
        """
        if address.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(Path(address.removeprefix("unix:")))
        else:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(secret.encode() + b"\n")
        try:
            async with asyncio.timeout(silence_s):
                first = await read_message(reader, _decoder())
        except (asyncio.IncompleteReadError, msgspec.DecodeError, ValueError, TimeoutError) as error:
            writer.transport.abort()
            raise LlmsysError(f"{address} does not answer as a replica: {str(error) or 'silence'}") from error
        assert isinstance(first, Ready), first
        return cls(reader, writer, first, silence_s)

    def listen(self, events: LinkEvents) -> None:
        """Hear what comes from now on."""
        self._reading = asyncio.create_task(self._listen(events))

    def send(self, message: ToReplica) -> None:
        """Tell the replica something; what is said to a lost one is said to nobody."""
        if not self._writer.is_closing():
            write_message(self._writer, message)

    async def texts(self) -> dict[str, bytes]:
        """The files of the replica's tokenizer. Raises LlmsysError if it is lost before."""
        self._texts = asyncio.get_running_loop().create_future()
        self.send(WantTexts())
        return await self._texts

    async def close(self) -> None:
        """End the connection; `lost` is not called for it."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._end()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _listen(self, events: LinkEvents) -> None:
        decoder = _decoder()
        try:
            while True:
                async with asyncio.timeout(self._silence_s):
                    message = await read_message(self._reader, decoder)
                self._take(message, events)
        except (asyncio.IncompleteReadError, OSError, msgspec.DecodeError, ValueError):
            self._writer.transport.abort()  # closing would wait until a replica that hangs has read what was sent
            self._end()
            events.lost()

    def _end(self) -> None:
        self._writer.close()
        if self._texts is not None and not self._texts.done():
            self._texts.set_exception(LlmsysError("the replica was lost while it sent its tokenizer"))

    def _take(self, message: FromReplica, events: LinkEvents) -> None:
        if isinstance(message, Tokens):
            for said in message.said:
                events.said(said)
        elif isinstance(message, Refused):
            events.refused(message)
        elif isinstance(message, Spent):
            events.spent(message)
        elif isinstance(message, Report):
            self.report = message
        elif isinstance(message, Texts) and self._texts is not None and not self._texts.done():
            self._texts.set_result(message.files)


def _decoder() -> "msgspec.msgpack.Decoder[FromReplica]":
    return msgspec.msgpack.Decoder(FromReplica)
