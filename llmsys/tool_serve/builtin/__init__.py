"""Tools that come with the toolkit."""

from llmsys.tool_serve.builtin.calculator import calculator, sleep
from llmsys.tool_serve.builtin.files import file_tools
from llmsys.tool_serve.builtin.python import python_tool
from llmsys.tool_serve.builtin.search import search_tool
from llmsys.tool_serve.builtin.shell import shell_tool
from llmsys.tool_serve.builtin.sqlite import sqlite_tool

__all__ = ["calculator", "file_tools", "python_tool", "search_tool", "shell_tool", "sleep", "sqlite_tool"]
