"""The built-in tools on real inputs: same results however the call was written, bounded, confined."""

import asyncio
import os
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import Unavailable
from llmsys.tool_serve.builtin import (
    calculator,
    file_tools,
    python_tool,
    search_tool,
    shell_tool,
    sleep,
    sqlite_tool,
)
from llmsys.tool_serve.builtin.calculator import evaluate
from llmsys.tool_serve.clock import run_virtual
from llmsys.tool_serve.effects import Policy
from llmsys.tool_serve.events import Text, Unit
from llmsys.tool_serve.runtime import State, ToolRuntime
from llmsys.tool_serve.sandbox import choose_sandbox
from llmsys.tool_serve.workers import PYTHON, SHELL, WorkerPool
from tests.tool_serve.turns import opened, sealed


async def outcome_of(tools, name, events=(), policy=Policy.PARTIAL, finish="tool_calls", **args):
    session = ToolRuntime(tools, policy=policy).open_turn("r")
    session.take([opened(0, name), *events])
    await asyncio.sleep(0)
    session.take([sealed(0, **args)])
    return (await session.end_turn(finish))[0]


def called(tools, name, *events, **args):
    return asyncio.run(outcome_of(tools, name, events, **args))


def in_pool(make, program, *calls):
    """The outcomes of calls, each (events, policy, arguments), of a tool over a pool of workers."""

    async def play():
        pool = WorkerPool(choose_sandbox(), program, size=1)
        tool = make(pool)
        try:
            return [
                await outcome_of([tool], tool.name, events, policy=policy, **args) for events, policy, args in calls
            ]
        finally:
            await pool.close()

    return asyncio.run(play())


def statements(*texts):
    return [Unit(0, ("code",), "statement", text, 0) for text in texts]


PROGRAM = [
    "from __future__ import annotations\n",
    "import sys, asyncio\nx: Undefined = 1\n",
    "def f(n):\n    if n:\n        return n\n    raise KeyError('no')\n",
    "print('out'); print('err', file=sys.stderr)\n",
    "await asyncio.sleep(0)\n",
    "print(__name__)\n",
    "x + f(2)",
]


def test_a_program_prints_the_same_statement_by_statement_and_as_a_whole():
    code = "".join(PROGRAM)
    calls = [
        (statements(*PROGRAM), Policy.PARTIAL, {"code": code}),
        (statements(*PROGRAM), Policy.BLOCKING, {"code": code}),
        ([], Policy.PARTIAL, {"code": code}),
    ]

    for outcome in in_pool(python_tool, PYTHON, *calls):
        assert outcome.result.content == "out\nerr\n__main__\n3\n"
        assert outcome.state is State.DONE
        assert dict(outcome.result.data)["sandbox"] == "bubblewrap"


def test_a_traceback_shows_the_line_of_the_whole_program_and_its_source():
    parts = ["x = 1\n\n", "def f():\n    return x / 0\n", "f()\n", "print('never')\n"]

    (outcome,) = in_pool(python_tool, PYTHON, (statements(*parts), Policy.PARTIAL, {"code": "".join(parts)}))

    assert outcome.result.content.splitlines() == [
        "Traceback (most recent call last):",
        '  File "<python>", line 5, in <module>',
        "    f()",
        '  File "<python>", line 4, in f',
        "    return x / 0",
        "           ~~^~~",
        "ZeroDivisionError: division by zero",
    ]
    assert outcome.result.error == "exit 1"


@pytest.mark.parametrize(
    ("code", "content", "error"),
    [
        ("print(1)\nraise SystemExit\nprint(2)", "1\n", None),
        ("import sys\nsys.exit('bad luck')", "bad luck\n", "exit 1"),
        ("import sys\nsys.exit(7)", "", "exit 7"),
        ("1 +\n", 'File "<python>", line 1', "exit 1"),
        ("import threading, time\nthreading.Thread(target=lambda: (time.sleep(.01), print('t'))).start()", "t\n", None),
        ("import atexit\natexit.register(print, 'bye')\nNone", "bye\n", None),
        ("class A:\n  def __repr__(self): raise ValueError('r')\nA()", "ValueError: r", "exit 1"),
        ("print('\\ud800')", "\\ud800\n", None),
        (
            "import subprocess\nprint(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout)",
            "child",
            None,
        ),
    ],
)
def test_a_program_ends_as_it_would_under_the_interpreter(code, content, error):
    (outcome,) = in_pool(python_tool, PYTHON, ([], Policy.PARTIAL, {"code": code}))

    assert content in outcome.result.content
    assert outcome.result.error == error
    assert "worker" not in outcome.result.content


def test_no_program_sees_what_another_left():
    first, second = in_pool(
        python_tool,
        PYTHON,
        ([], Policy.PARTIAL, {"code": "open('/tmp/left', 'w').write('x'); leak = 1"}),
        ([], Policy.PARTIAL, {"code": "import os; print(os.listdir('/tmp'), 'leak' in globals())"}),
    )

    assert first.state is State.DONE
    assert second.result.content == "[] False\n"


def script(*texts):
    return [Text(0, ("script",), text, 0) for text in texts]


SCRIPT = (
    "x=1\nif true; then\n  echo yes $x\nfi\ncat <<END\nhere $x\nEND\ncat\nread line || echo nothing to read\nexit 3\n"
)


def test_a_script_cut_anywhere_does_what_it_does_whole():
    calls = [(script(*SCRIPT), Policy.PARTIAL, {"script": SCRIPT}), ([], Policy.BLOCKING, {"script": SCRIPT})]

    for outcome in in_pool(shell_tool, SHELL, *calls):
        assert outcome.result.content == "yes 1\nhere 1\nnothing to read\n"
        assert outcome.result.error == "exit 3"


@given(
    st.recursive(
        st.integers(-99, 99).map(str),
        lambda e: st.tuples(e, st.sampled_from("+-*"), e).map("({0[0]} {0[1]} {0[2]})".format),
    )
)
def test_the_calculator_computes_as_python_does(expression):
    assert evaluate(expression) == eval(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "9**9**9",
        "(-8)**.5",
        "1/0",
        "1e308*10**10**2",
        "x",
        "'a'*9",
        "[1]",
        "(" * 5000,
        "True",
        "",
        "1 if 1 else 2",
    ],
)
def test_the_calculator_refuses_what_is_no_bounded_arithmetic(expression):
    outcome = called([calculator], "calculator", expression=expression)

    assert outcome.state is State.FAILED
    assert outcome.result.content.startswith("error: $.expression: ")


def test_sleep_waits_its_seconds():
    async def play():
        outcome = await outcome_of([sleep], "sleep", seconds=90)
        return outcome.result.content, asyncio.get_running_loop().time()

    assert run_virtual(play()) == ("slept 90 s", 90)


@pytest.fixture
def shop(tmp_path):
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE fruit (name TEXT, price REAL)")
        connection.executemany("INSERT INTO fruit VALUES (?, ?)", [("apple", 1.5), ("pear", None), ("a;b", 2)])
    connection.close()
    return path


def test_queries_run_statement_by_statement_and_give_their_rows(shop):
    parts = ["SELECT name FROM fruit WHERE price > 1.9;", " SELECT count(*), 'x;y' FROM fruit"]
    units = [Unit(0, ("sql",), "sql", part, 0) for part in parts]

    fed = called([sqlite_tool(shop)], "sqlite", *units, sql="".join(parts))
    whole = called([sqlite_tool(shop)], "sqlite", sql="".join(parts))

    assert fed.result.content == whole.result.content == "a;b\n3|x;y\n"


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM fruit",
        "ATTACH '/etc/passwd' AS p",
        "PRAGMA writable_schema = 1",
        "CREATE TEMP TABLE t (x)",
        "SELECT load_extension('x')",
        "SELEC 1",
    ],
)
def test_a_query_can_only_read(shop, sql):
    before = shop.read_bytes()
    outcome = called([sqlite_tool(shop)], "sqlite", sql=sql)

    assert outcome.state is State.FAILED
    assert shop.read_bytes() == before


def test_a_query_that_never_ends_is_interrupted_with_its_call(shop):
    import dataclasses

    forever = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
    tool = dataclasses.replace(sqlite_tool(shop), timeout_s=0.2)

    assert called([tool], "sqlite", sql=forever).state is State.TIMED_OUT


def test_the_best_passages_come_first(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/cats.txt").write_text("The cat sat on the mat.\n\nCats purr.")
    (tmp_path / "dogs.txt").write_text("A dog chased the cat over a long field of grass and flowers.")
    (tmp_path / "image.bin").write_bytes(b"\xff\xfe\x00cat")

    outcome = called([search_tool(tmp_path)], "search", query="CAT mat", k=2)

    assert [line for line in outcome.result.content.splitlines() if line.startswith("[")] == [
        "[sub/cats.txt]",
        "[dogs.txt]",
    ]
    assert called([search_tool(tmp_path)], "search", query="zebra").result.content == "nothing found\n"


def test_files_are_written_at_the_end_of_the_message_and_read_after_that(tmp_path):
    tools = file_tools(tmp_path)

    async def play():
        session = ToolRuntime(tools).open_turn("r")
        session.take([opened(0, "write_file"), opened(1, "read_file"), opened(2, "list_files")])
        session.take([sealed(0, path="a.txt", text="hello"), sealed(1, path="a.txt"), sealed(2, path=".")])
        return await session.end_turn()

    outcomes = asyncio.run(play())

    assert [one.result.content for one in outcomes][:2] == ["wrote 5 bytes to a.txt", "hello"]
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_write_of_a_message_that_was_cut_off_leaves_nothing(tmp_path):
    outcome = called(file_tools(tmp_path), "write_file", finish="length", path="a.txt", text="hello")

    assert outcome.state is State.CANCELLED
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["../secret", "/../secret", "link/secret", "out", "/etc/passwd", "a\0b", "", "."])
def test_no_path_leads_out_of_the_root(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path)
    (root / "out").symlink_to(tmp_path / "secret")

    read = called(file_tools(root), "read_file", path=path)
    called(file_tools(root), "write_file", path=path, text="mine")

    assert read.state is State.FAILED
    assert "secret\n" not in read.result.content
    assert (tmp_path / "secret").read_text() == "secret"
    assert sorted(os.listdir(tmp_path)) == ["root", "secret"]


def test_a_part_that_is_missing_is_named(tmp_path):
    with pytest.raises(Unavailable, match="no database"):
        sqlite_tool(tmp_path / "none.db")
    with pytest.raises(Unavailable, match="no directory"):
        search_tool(tmp_path / "none")
