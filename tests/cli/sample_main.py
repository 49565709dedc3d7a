"""`llmsys` with two commands more: `sample`, which the tests of the shell drive, and `planned`, which is not built."""

import sys
from pathlib import Path

import llmsys.cli
from llmsys.cli._commands import COMMANDS

if __name__ == "__main__":
    COMMANDS["sample"] = "Verbs that the tests of the shell drive."
    COMMANDS["planned"] = "A command that nobody wrote."
    llmsys.cli.__path__.append(str(Path(__file__).parent / "sample_commands"))
    sys.exit(llmsys.cli.main())
