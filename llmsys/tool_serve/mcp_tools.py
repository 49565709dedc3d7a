"""Tools of MCP servers: programs that speak on their stdin and stdout, or URLs; the protocol is the `mcp` package's.

What a server says of a tool decides its effect: readOnlyHint is pure, idempotentHint idempotent, all else effectful. A
server that ends is started again by the next call, after growing waits. Knows no runtime.
"""

import asyncio
import shlex
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

from llmsys.errors import LlmsysError, Unavailable
from llmsys.gpu import require
from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.tools import CallContext, PartialTool, Tool

if TYPE_CHECKING:
    from mcp import Client

__all__ = ["McpServer"]

START_S = 30.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 15.0
LOG_CHARS = 300


class McpServer:
    """A server at `stdio:COMMAND LINE`, or at a URL; connected while calls need it, on the loop of the first call."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._log: TextIO = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (kept)
        self._connecting = asyncio.Lock()
        self._client: Client | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._faults = 0

    def tools(self) -> list[Tool]:
        """What the server offers, asked in a connection of its own. Raises Unavailable for a server that is not there.

        Blocks until the server has answered, at most START_S.
        """
        require("mcp")
        with ThreadPoolExecutor(1) as thread:  # the caller's thread may run a loop already
            return thread.submit(asyncio.run, McpServer(self._address)._listed(self)).result()

    async def connect(self) -> "Client":
        """The connection, made if there is none. Raises Unavailable."""
        async with self._connecting:
            if self._client is not None:
                return self._client
            if self._faults:
                await asyncio.sleep(min(FIRST_WAIT_S * 2 ** (self._faults - 1), LONGEST_WAIT_S))
            ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
            self._leave = asyncio.Event()
            self._keeper = asyncio.create_task(self._keep(ready), name=f"mcp {self._address}")
            try:
                self._client = await asyncio.wait_for(asyncio.shield(ready), START_S)
            except Exception as error:
                self._faults += 1
                await self._disconnect()
                raise Unavailable(
                    f"no MCP server at {self._address}: {self._told(error)}", "check the command"
                ) from error
            return self._client

    async def call(self, name: str, args: dict[str, Any]) -> ToolResult:
        """Call a tool. Raises LlmsysError if the server ends meanwhile, or refuses."""
        from mcp.shared.exceptions import MCPError
        from mcp.types import CONNECTION_CLOSED

        client = await self.connect()
        try:
            found = await client.call_tool(name, args)
        except MCPError as error:
            if error.error.code == CONNECTION_CLOSED:
                self._faults += 1
                await self._disconnect()
                raise LlmsysError(f"the MCP server {self._address} ended: {self._told(error)}") from error
            raise LlmsysError(f"the MCP server {self._address} refused: {error}") from error
        self._faults = 0
        return ToolResult("\n".join(_texts(found)), "tool" if found.is_error else None)

    async def close(self) -> None:
        """Leave the connection, which ends a program."""
        await self._disconnect()
        self._log.close()

    async def _listed(self, home: "McpServer") -> list[Tool]:
        """The tools, whose calls go to `home`."""
        try:
            client = await self.connect()
            found, cursor = [], None
            while True:
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                if (cursor := page.next_cursor) is None:
                    return [home._tool(one) for one in found]
        finally:
            await self.close()

    def _tool(self, declared: Any) -> Tool:  # noqa: ANN401 (mcp's Tool)
        return Tool(
            name=declared.name,
            description=declared.description or "",
            parameters=dict(declared.input_schema),
            make=lambda: _McpCall(self, declared.name),
            effect=_effect(declared.annotations),
        )

    async def _keep(self, ready: "asyncio.Future[Client]") -> None:
        """Hold the connection open: it must be left by the task that entered it."""
        from mcp import Client
        from mcp.client.stdio import StdioServerParameters, stdio_client

        try:
            place: Any = self._address
            if self._address.startswith("stdio:"):
                command, *args = shlex.split(self._address.removeprefix("stdio:"))
                place = stdio_client(StdioServerParameters(command=command, args=args), errlog=self._log)
            async with Client(place) as client:
                ready.set_result(client)
                await self._leave.wait()
        except Exception as error:  # whatever it was, who waits must hear of it; later, calls do
            if not ready.done():
                ready.set_exception(error)

    async def _disconnect(self) -> None:
        self._client = None
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        self._leave.set()
        await asyncio.wait([keeper], timeout=START_S)
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper

    def _told(self, error: BaseException) -> str:
        """The fault, and the last that the server wrote for people."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self._log.seek(0)
        said = " ".join(self._log.read().split())[-LOG_CHARS:]
        return f"{type(error).__name__}: {error}" + (f": {said}" if said else "")


class _McpCall(PartialTool):
    """One call: the connection is made when the tool is named."""

    def __init__(self, server: McpServer, name: str) -> None:
        self._server, self._name = server, name

    async def begin(self, ctx: CallContext) -> None:
        with suppress(Unavailable):  # the call itself will say so
            await self._server.connect()

    async def finish(self, args: dict[str, Any]) -> ToolResult:
        return await self._server.call(self._name, args)


def _effect(hints: Any) -> Effect:  # noqa: ANN401 (mcp's ToolAnnotations)
    if hints is None:
        return Effect.EFFECTFUL
    if hints.read_only_hint:
        return Effect.PURE
    return Effect.IDEMPOTENT if hints.idempotent_hint else Effect.EFFECTFUL


def _texts(result: Any) -> Iterator[str]:  # noqa: ANN401 (mcp's CallToolResult)
    """The result's parts as text; what is no text is named."""
    for part in result.content:
        text = getattr(part, "text", None)
        named = " ".join(filter(None, (part.type, getattr(part, "mime_type", None))))
        yield text if isinstance(text, str) else f"[{named}]"
