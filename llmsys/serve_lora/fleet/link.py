"""The near side of a connection to one replica: work out, tokens and reports in, and one call when it is lost.

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
    Texts,
    Tokens,
    ToReplica,
    WantTexts,
    read_message,
    write_message,
)

__all__ = ["Link", "LinkEvents"]


class LinkEvents:
    """What a connection tells its owner; each is called in the order of what came."""

    def __init__(
        self,
        *,
        said: Callable[[Said], None],
        refused: Callable[[Refused], None],
        lost: Callable[[], None],
    ) -> None:
        self.said, self.refused, self.lost = said, refused, lost


class Link:
    """An open connection; `ready` is the replica's first message, `report` its last one about itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ready: Ready) -> None:
        self.ready = ready
        self.report: Report | None = None
        self._reader, self._writer = reader, writer
        self._texts: asyncio.Future[dict[str, bytes]] | None = None
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, address: str, secret: str) -> Self:
        """Connect to `unix:PATH` or `HOST:PORT` and wait for the replica. Raises OSError, LlmsysError."""
        if address.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(Path(address.removeprefix("unix:")))
        else:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(secret.encode() + b"\n")
        try:
            first = await read_message(reader, _decoder())
        except (asyncio.IncompleteReadError, msgspec.DecodeError, ValueError) as error:
            writer.close()
            raise LlmsysError(f"{address} does not answer as a replica: {error}") from error
        assert isinstance(first, Ready), first
        return cls(reader, writer, first)

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
                self._take(await read_message(self._reader, decoder), events)
        except (asyncio.IncompleteReadError, OSError, msgspec.DecodeError, ValueError):
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
        elif isinstance(message, Report):
            self.report = message
        elif isinstance(message, Texts) and self._texts is not None and not self._texts.done():
            self._texts.set_result(message.files)


def _decoder() -> "msgspec.msgpack.Decoder[FromReplica]":
    return msgspec.msgpack.Decoder(FromReplica)
