"""The command line of llmsys: `main` runs it, `root_group` is its tree of commands.

Loading this loads neither a command nor a system.
"""

from llmsys.cli._main import main
from llmsys.cli._root import root_group

__all__ = ["main", "root_group"]
