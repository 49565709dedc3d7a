"""Programs in statements: the library's own sources, cut anywhere, run piece by piece as they run whole."""

import ast
import contextlib
import io
import random
import sysconfig
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.tool_serve.inside.python_worker import Program
from llmsys.tool_serve.statements import Statements

LIBRARY = Path(sysconfig.get_path("stdlib"))
SOURCES = [
    *("this.py", "keyword.py", "colorsys.py", "bisect.py", "heapq.py", "textwrap.py", "string.py", "graphlib.py"),
    *("fractions.py", "statistics.py", "calendar.py", "dataclasses.py", "enum.py", "functools.py", "argparse.py"),
    *("ast.py", "tokenize.py", "shlex.py", "json/decoder.py", "collections/__init__.py", "asyncio/tasks.py"),
]
PROGRAMS = {
    "else": "x = 1\nif x:\n    print('a')\n\n# why\nelse:\n    print('b')\nprint('c')\n",
    "try": "try:\n    1 / 0\nexcept Exception:\n    print('z')\nelse:\n    x\nfinally:\n    print('f')\nx = 2\n",
    "brackets": "x = [\n1,\n2,\n]\nprint(\nx\n)\ny = (3 +\n4)\ny\n",
    "strings": 's = """\nelse\n# \'\'\' no\n"""\nprint(s)\nt = "a\\"b # c" + \'\\\'\'\nprint(t)\n',
    "decorator": "def d(f):\n    return lambda: f() + 1\n\n@d\n# why\ndef g():\n    return 1\nprint(g())\n",
    "continued": "x = 1 + \\\n2\nprint(x)\nassert x == 3, \\\n'no'\n",
    "error": "print(1)\ndef f(x):\n    return 1 / x\nprint(2)\nf(0)\nprint(3)\n",
    "raise at the end": "x = 1\nraise ValueError(x)",
    "value": "x = 3\nx * 2",
    "future": "from __future__ import annotations\ndef f(x: nowhere): ...\nprint(f.__annotations__)\n",
    "await": "import asyncio\nasync def f():\n    return 5\nx = await f()\nprint(x)\n",
    "match": "case = 1\nmatch case:\n    case 1:\n        print('one')\nmatch = 2\nprint(match)\n",
    "class": "class A:\n    x = 1\n\n    def f(self):\n        return self.x\n\nprint(A().f(), __name__)\n",
    "comments": "# a\n\n# b\nprint(1)  # c ' \"\n    # deep\nprint(2)\n#end",
    "exit": "print(1)\nraise SystemExit(3)\nprint(2)\n",
    "elsewhere": "elsewhere = 1\nexcepted = elsewhere\nprint(excepted)\n",
    "empty": "\n\n",
    "with": "with open('/dev/null') as f:\n    pass\nfor i in range(2):\n    print(i)\nelse:\n    print('over')\n",
}  # fmt: skip


def cut(text, seed):
    rng, parts, at = random.Random(seed), [], 0
    while at < len(text):
        size = rng.randint(1, 9)
        parts.append(text[at : at + size])
        at += size
    return parts


def split(parts):
    statements = Statements()
    return [statement for part in parts for statement in statements.feed(part)]


def ran(pieces):
    """What a program printed, its value, its exit status and traceback, run in these pieces."""
    printed, program = io.StringIO(), Program()
    value = None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        if all(program.run(piece) for piece in pieces):
            value = program.end()
    return printed.getvalue(), value, program.exit_status


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_in_statements_runs_as_it_runs_whole(name):
    source = PROGRAMS[name]
    for parts in ([source], list(source), cut(source, 1)):
        found = split(parts)
        rest = source[len("".join(found)) :]

        assert source.startswith("".join(found))
        assert ran([*found, rest]) == ran([source])


@pytest.mark.parametrize("name", SOURCES)
def test_the_librarys_sources_split_where_their_statements_begin(name):
    source = (LIBRARY / name).read_text(encoding="utf-8")
    found = split(cut(source, 3))
    tree = ast.parse(source)
    firsts = [min([one.lineno, *(d.lineno for d in getattr(one, "decorator_list", []))]) for one in tree.body]
    begins, line = [], 1
    for statement in found:
        begins.append(line)
        line += statement.count("\n")

    assert source.startswith("".join(found))
    assert split([source]) == found == split(list(source))
    assert len(found) == len(set(firsts)) - 1
    assert all(ast.parse(statement) for statement in found)


@given(st.sampled_from(sorted(PROGRAMS)), st.sampled_from(sorted(PROGRAMS)), st.integers(0, 99))
def test_cuts_do_not_change_what_is_split(one, other, seed):
    source = PROGRAMS[one] + "\n" + PROGRAMS[other]

    assert split(cut(source, seed)) == split([source])


@given(st.text(st.sampled_from("x=1\n \\'\"#()[]{}@:ifdelse"), max_size=60), st.integers(0, 99))
def test_whatever_is_written_pieces_are_a_prefix_and_each_parses(source, seed):
    found = split(cut(source, seed))

    assert source.startswith("".join(found))
    assert all(ast.parse(statement) is not None for statement in found)
    assert found == split([source])


def test_a_statement_is_given_out_when_the_next_begins_and_not_before():
    statements = Statements()

    assert statements.feed("x = 1\n") == []
    assert statements.feed("e") == []
    assert statements.feed("lse") == []
    assert statements.feed("_ = 2") == ["x = 1\n"]
    assert statements.feed("\n    \nprint(") == ["else_ = 2\n    \n"]


def test_an_error_in_the_syntax_stops_the_splitting_once_and_for_all():
    statements = Statements()

    assert statements.feed("x = = 1\ny = 2\nz = 3\n") == []
    assert statements.feed("w = 4\n" * 1000) == []


def test_a_traceback_names_the_line_of_the_whole_program():
    source = PROGRAMS["error"]
    pieces = split([source])
    printed, _, status = ran([*pieces, source[len("".join(pieces)) :]])

    assert status == 1
    assert 'File "<python>", line 5, in <module>' in printed
    assert 'File "<python>", line 3, in f' in printed
    assert traceback.__file__ not in printed
