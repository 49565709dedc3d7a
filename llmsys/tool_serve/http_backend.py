"""Any OpenAI-compatible server behind a run: one streamed chat completion per turn.

A busy server (429, 5xx, no connection) is asked again, as long as nothing of the turn has come. The key is taken from
OPENAI_API_KEY. Knows no tool's work: whether a turn that broke off may be asked for again, `conversation.py` decides.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx2
import orjson

from llmsys.errors import LlmsysError, Unavailable
from llmsys.tool_serve.backends import BrokenTurn, Piece, TurnRequest

__all__ = ["HttpBackend", "ServerFault"]

KEY_VARIABLE = "OPENAI_API_KEY"
BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
FIRST_WAIT_S = 0.25
RETRIES = 2
TIMEOUT_S = 600.0
FAULT_CHARS = 300
DATA = b"data:"


class ServerFault(LlmsysError):
    """What a server said in place of a turn; `status` 0 where it could not be reached."""

    def __init__(self, why: str, *, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class HttpBackend:
    """A server at `address`: URL#model, the URL up to and with /v1; without a model, the first that it lists."""

    form = "auto"

    def __init__(self, address: str) -> None:
        self._url, _, self._model = address.partition("#")
        self._client: httpx2.AsyncClient | None = None

    async def turn(self, request: TurnRequest) -> AsyncIterator[Piece]:
        """As the protocol says. Raises ServerFault for a refusal, BrokenTurn for a stream that ends before its turn."""
        for retry in range(RETRIES + 1):
            begun = False
            try:
                async with aclosing(self._pieces(request)) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except ServerFault as fault:
                if begun or retry == RETRIES or fault.status not in (0, *BUSY):
                    raise
            await asyncio.sleep(FIRST_WAIT_S * 2**retry)

    async def close(self) -> None:
        """Leave the server's connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _pieces(self, request: TurnRequest) -> AsyncGenerator[Piece, None]:
        """One request's stream."""
        client, ended, begun = self._opened(), False, False
        body = orjson.dumps(await self._body(request))
        try:
            async with client.stream("POST", "chat/completions", content=body) as response:
                if response.status_code != httpx2.codes.OK:
                    said = " ".join((await response.aread()).decode("utf-8", "replace")[:FAULT_CHARS].split())
                    raise ServerFault(f"{self._url}: {response.status_code}: {said}", status=response.status_code)
                async with aclosing(_events(response)) as events:
                    async for data in events:
                        begun = True
                        piece = self._piece(data)
                        ended = ended or piece.finish is not None
                        yield piece
        except httpx2.HTTPError as error:
            what = f"{self._url}: {type(error).__name__}: {error}"
            raise (BrokenTurn(what) if begun else ServerFault(what)) from error
        if not ended:
            raise BrokenTurn(f"{self._url}: the stream ended before its turn did")

    def _piece(self, data: bytes) -> Piece:
        try:
            choices = orjson.loads(data).get("choices") or [{}]
            delta = choices[0].get("delta") or {}
            return Piece(
                delta.get("content") or "", tuple(delta.get("tool_calls") or ()), choices[0].get("finish_reason")
            )
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            raise ServerFault(
                f"{self._url}: {data[:80]!r}; expected a chunk of a chat completion", status=200
            ) from error

    async def _body(self, request: TurnRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model or await self._first_model(),
            "messages": list(request.messages),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stream": True,
        }
        if request.tools:
            body["tools"] = list(request.tools)
        if request.seed is not None:
            body["seed"] = request.seed
        return body

    async def _first_model(self) -> str:
        try:
            listed = (await self._opened().get("models")).raise_for_status().json()["data"]
            self._model = str(listed[0]["id"])
        except (httpx2.HTTPError, ValueError, LookupError, TypeError) as error:
            raise Unavailable(f"{self._url} lists no models ({error})", "name one: URL#model") from error
        return self._model

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            key = os.environ.get(KEY_VARIABLE)
            headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
            limits = httpx2.Limits(max_connections=None)
            base = self._url.rstrip("/") + "/"
            self._client = httpx2.AsyncClient(base_url=base, headers=headers, timeout=TIMEOUT_S, limits=limits)
        return self._client


async def _events(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The data of each event up to [DONE]. Lines end at line feeds alone: U+2028 may stand in a JSON string."""
    rest = b""
    async for some in response.aiter_bytes():
        *lines, rest = (rest + some).split(b"\n")
        for line in lines:
            if line.startswith(DATA):
                data = line.removeprefix(DATA).strip()
                if data == b"[DONE]":
                    return
                yield data
