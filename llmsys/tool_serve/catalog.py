"""Tools by their specification on a command line, and the workers behind them.

    builtin:python,shell,search=DIR,sqlite=FILE,files=DIR,calculator,sleep   those that come with the toolkit
    tools.py    package.module:object                                        `Tool` objects, or functions under @tool
    tools.json                                                               client tools: announced, never run here
    mcp:stdio:COMMAND LINE   mcp:URL                                         the tools of an MCP server

Knows no runtime.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec

from llmsys.errors import BadInput, UsageFault
from llmsys.tool_serve.builtin import calculator, file_tools, python_tool, search_tool, shell_tool, sleep, sqlite_tool
from llmsys.tool_serve.mcp_tools import McpServer
from llmsys.tool_serve.sandbox import Sandbox, choose_sandbox
from llmsys.tool_serve.tools import Tool
from llmsys.tool_serve.workers import PYTHON, SHELL, WorkerPool

__all__ = ["Catalog", "open_catalog"]

_IN_WORKERS = {"python": (PYTHON, python_tool), "shell": (SHELL, shell_tool)}
_AT_PLACE: dict[str, Callable[[Path], list[Tool]]] = {
    "search": lambda place: [search_tool(place)],
    "sqlite": lambda place: [sqlite_tool(place)],
    "files": file_tools,
}
_PLAIN = {"calculator": calculator, "sleep": sleep}
_KNOWN = ", ".join([*_IN_WORKERS, *(f"{name}=PLACE" for name in _AT_PLACE), *_PLAIN])


class _Function(msgspec.Struct, frozen=True):
    name: str
    description: str = ""
    parameters: dict[str, object] = {}


class _Declared(msgspec.Struct, frozen=True):
    function: _Function


class Catalog:
    """Tools and the pools that they share; `close` ends the workers. sandbox: what programs run in, if any do."""

    def __init__(self, sandbox: str) -> None:
        self.tools: list[Tool] = []
        self.sandbox: Sandbox | None = None
        self._kind = sandbox
        self._pools: list[WorkerPool] = []
        self._servers: list[McpServer] = []

    def add(self, spec: str) -> None:
        """Add what a specification names. Raises UsageFault, BadInput, Unavailable."""
        if spec.startswith("builtin:"):
            for part in spec.removeprefix("builtin:").split(","):
                self.tools += self._builtin(part)
        elif spec.startswith("mcp:"):
            self._servers.append(McpServer(spec.removeprefix("mcp:")))
            self.tools += self._servers[-1].tools()
        elif spec.endswith(".json"):
            self.tools += _client_tools(Path(spec))
        elif spec.endswith(".py"):
            self.tools += _tools_of(_module_at(Path(spec)), spec)
        elif ":" in spec:
            module, _, name = spec.partition(":")
            self.tools += _named(module, name, spec)
        else:
            raise UsageFault(
                f"--tools {spec!r}; expected builtin:NAME, mcp:SERVER, package.module:object, a .py or a .json file"
            )

    async def warm_up(self) -> None:
        """Start the workers, and wait until each pool has one that is ready."""
        for pool in self._pools:
            await pool.ready()
        for server in self._servers:
            await server.connect()

    async def close(self) -> None:
        """End the workers that nobody took, and leave the servers."""
        for pool in self._pools:
            await pool.close()
        for server in self._servers:
            await server.close()

    def _builtin(self, part: str) -> list[Tool]:
        name, _, place = part.partition("=")
        if name in _IN_WORKERS and not place:
            program, make = _IN_WORKERS[name]
            self.sandbox = self.sandbox or choose_sandbox(self._kind)
            self._pools.append(WorkerPool(self.sandbox, program))
            return [make(self._pools[-1])]
        if name in _AT_PLACE and place:
            return _AT_PLACE[name](Path(place))
        if name in _PLAIN and not place:
            return [_PLAIN[name]]
        raise UsageFault(f"--tools builtin:{part}; expected some of {_KNOWN}")


def open_catalog(specs: list[str], *, sandbox: str) -> Catalog:
    """A catalog of what all specifications name; a name may come once. Raises as `Catalog.add` does."""
    catalog = Catalog(sandbox)
    for spec in specs:
        catalog.add(spec)
    names = [one.name for one in catalog.tools]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageFault(f"two tools are named {twice[0]!r}; expected names that differ")
    return catalog


def _client_tools(path: Path) -> list[Tool]:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[_Declared])
    except msgspec.DecodeError as error:
        raise BadInput(str(path), str(error), 'an OpenAI "tools" array') from error
    return [Tool(one.function.name, one.function.description, one.function.parameters, None) for one in found]


def _module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageFault(f"--tools {path}: no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # type hints of its functions are looked up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise BadInput(str(path), f"{type(error).__name__}: {error}", "a module that can be imported") from error
    return module


def _tools_of(module: ModuleType, spec: str) -> list[Tool]:
    found = [one for name, one in vars(module).items() if isinstance(one, Tool) and not name.startswith("_")]
    if not found:
        raise UsageFault(f"--tools {spec}: no tools in it; expected functions or classes under @tool")
    return found


def _named(module: str, name: str, spec: str) -> list[Tool]:
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageFault(f"--tools {spec}: {error}") from error
    tools = list(found) if isinstance(found, list | tuple) else [found]
    if not all(isinstance(one, Tool) for one in tools):
        raise UsageFault(f"--tools {spec}: {found!r} is no tool; expected a Tool, or a list of them")
    return tools
