"""The journal of staged calls: what a killed process leaves behind is rolled back once, by the next that starts."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from llmsys.errors import LlmsysError
from llmsys.tool_serve.journal import Journal
from llmsys.tool_serve.recovery import recover
from llmsys.tool_serve.runtime import ToolRuntime
from llmsys.tool_serve.tools import PartialTool, tool

STAGING = """
import asyncio, os, pathlib, signal, sys
from llmsys.tool_serve.events import CallOpen, Sealed
from llmsys.tool_serve.runtime import ToolRuntime
from llmsys.tool_serve.tools import PartialTool, tool

root = pathlib.Path(sys.argv[1])

@tool(name="scratch", effect="staged", parameters={"type": "object"})
class Scratch(PartialTool):
    async def begin(self, ctx):
        self.file = root / f"{ctx.call}.scratch"
        ctx.remember(file=str(self.file))
        self.file.write_text("half done")

    async def finish(self, args):
        return "staged"

    async def commit(self):
        self.file.rename(self.file.with_suffix(".done"))

async def main():
    runtime = ToolRuntime([Scratch], journal=root / "journal")
    session = runtime.open_turn("r0")
    session.take([CallOpen(0, "c0", "scratch", 0), Sealed(0, {}, 0)])
    await session.end_turn()
    session = runtime.open_turn("r1")
    session.take([CallOpen(0, "c1", "scratch", 0), CallOpen(1, "c2", "scratch", 0), Sealed(0, {}, 0)])
    while not (root / "c2.scratch").exists():
        await asyncio.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def scratch(log):
    @tool(name="scratch", effect="staged", parameters={"type": "object"})
    class Scratch(PartialTool):
        async def recover(self, ctx):
            os.unlink(ctx.memory["file"])
            log.append((ctx.request, ctx.call))

    return Scratch


@pytest.fixture
def killed(tmp_path):
    """A directory in which a process died with one staged call committed and two open."""
    program = textwrap.dedent(STAGING)
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    assert run.returncode == -signal.SIGKILL
    return tmp_path


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_killed_parents_staged_effects_are_rolled_back_once_at_the_next_start(killed):
    log = []
    assert names(killed) == ["c0.done", "c1.scratch", "c2.scratch", "journal"]

    runtime = ToolRuntime([scratch(log)], journal=killed / "journal")
    recovered = asyncio.run(runtime.recover())
    again = asyncio.run(runtime.recover())

    assert [(one.call, one.fault) for one in recovered] == [("c1", None), ("c2", None)]
    assert again == []
    assert log == [("r1", "c1"), ("r1", "c2")]
    assert names(killed) == ["c0.done", "journal"]
    assert names(killed / "journal") == []


def test_a_tool_that_is_not_loaded_leaves_the_journal_for_a_later_start(killed):
    faults = [one.fault for one in asyncio.run(recover(killed / "journal", {}))]
    log = []
    recovered = asyncio.run(recover(killed / "journal", {"scratch": scratch(log)}))

    assert faults == ["no tool 'scratch' is loaded"] * 2
    assert len(recovered) == len(log) == 2


def test_a_rollback_that_fails_is_tried_again_at_a_later_start_and_the_others_are_not(killed):
    (killed / "c1.scratch").unlink()
    first = asyncio.run(recover(killed / "journal", {"scratch": scratch([])}))
    (killed / "c1.scratch").write_text("back")
    second = asyncio.run(recover(killed / "journal", {"scratch": scratch([])}))

    assert [one.fault is None for one in first] == [False, True]
    assert [(one.call, one.fault) for one in second] == [("c1", None)]


def test_a_line_cut_off_by_the_death_of_its_writer_is_passed_over(killed):
    (journal,) = (killed / "journal").iterdir()
    with journal.open("ab") as stream:
        stream.write(b'{"key":2,"state":"comm')
    log = []

    assert len(asyncio.run(recover(killed / "journal", {"scratch": scratch(log)}))) == len(log) == 2


def test_a_journal_that_is_none_is_named(tmp_path):
    (tmp_path / "1-aa.journal").write_text("what is this\n")

    with pytest.raises(LlmsysError, match=r"1-aa\.journal:1: no line of a journal"):
        asyncio.run(recover(tmp_path, {}))


def test_the_journal_of_a_process_that_lives_is_left_alone(tmp_path):
    journal = Journal(tmp_path)
    journal.begin(tool="scratch", request="r", tenant="t", call="c")

    during = asyncio.run(recover(tmp_path, {}))
    journal.close()
    afterwards = asyncio.run(recover(tmp_path, {}))

    assert during == []
    assert [one.call for one in afterwards] == ["c"]


def test_a_journal_whose_calls_have_all_ended_leaves_no_file(tmp_path):
    journal = Journal(tmp_path)
    for how in ("committed", "rolled_back"):
        journal.end(journal.begin(tool="t", request="r", tenant="t", call="c"), how)
    assert len(names(tmp_path)) == 1
    journal.close()

    assert names(tmp_path) == []
