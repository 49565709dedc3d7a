"""Man pages and README.md say what the command line is: regenerated, they are the same bytes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmsys.cli import root_group
from llmsys.cli._commands import COMMANDS, is_built, verbs_of

ROOT = Path(__file__).resolve().parents[1]
MAN = ROOT / "man"
PAGES = sorted(MAN.glob("llmsys*.1"))
BUILT = [name for name in COMMANDS if is_built(name)]
VERBS = {name: dict(verbs_of(root_group().commands[name].load())) for name in BUILT}


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def plain(page: Path) -> str:
    """A page's text without roff's escapes."""
    text = page.read_text(encoding="utf-8")
    for escaped, bare in ((r"\-", "-"), (r"\fB", ""), (r"\fR", ""), (r"\&", ""), (r"\e", "\\")):
        text = text.replace(escaped, bare)
    return re.sub(r"\\\[u([0-9A-F]{4,6})\]", lambda match: chr(int(match[1], 16)), text)


def test_the_man_pages_are_what_the_command_line_gives(tmp_path):
    run = python("man/build.py", str(tmp_path))
    fresh = {page.name: page.read_bytes() for page in tmp_path.iterdir()}

    assert run.returncode == 0, run.stderr
    assert fresh == {page.name: page.read_bytes() for page in PAGES}, "run `make man`"


def test_readme_is_what_the_tree_gives():
    run = python("-m", "cogapp", "--check", "-I", "man", "README.md")

    assert run.returncode == 0, f"run `make man`\n{run.stdout}{run.stderr}"


def test_there_is_a_page_for_every_built_command_and_one_for_the_whole():
    assert {page.stem for page in PAGES} == {"llmsys", *(f"llmsys-{name}" for name in BUILT)}


@pytest.mark.parametrize(("name", "verb"), [(name, verb) for name, verbs in VERBS.items() for verb in verbs])
def test_every_option_of_a_verb_is_on_its_page_with_help_and_default(name, verb):
    page = plain(MAN / f"llmsys-{name}.1")
    section = page.partition(f"\n.SH {verb.upper()}\n")[2].partition("\n.SH ")[0]
    shown = [one for one in VERBS[name][verb].params if not one.hidden]

    assert f"llmsys {name} {verb} " in page
    assert section
    for parameter in shown:
        spellings = [*parameter.opts, *parameter.secondary_opts]
        for spelling in spellings if parameter.param_type_name == "option" else ():
            assert spelling in section
        assert (parameter.help or "") in section
        if isinstance(parameter.default, int | float | str) and not isinstance(parameter.default, bool):
            assert f"[default: {parameter.default}" in section


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_groff_reads_a_page_without_a_warning(page):
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    command = ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", str(page)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (run.returncode, run.stderr) == (0, "")
    assert "EXIT STATUS" in run.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_every_section_and_no_date(page):
    text = plain(page)
    sections = [line[4:] for line in text.splitlines() if line.startswith(".SH ")]
    title = text.splitlines()[1]

    assert sections[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert sections[-4:] == ["EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"]
    assert title.split()[3] == '""'


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_and_the_root_page_name_a_command_and_its_state(name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [line for line in readme.splitlines() if line.startswith(f"| `llmsys {name}` |")]
    page = plain(MAN / "llmsys.1")

    state = ", ".join(VERBS[name]) if name in VERBS else "not built yet"

    assert name == "doctor" or [row.endswith(f"| {state} |") for row in rows] == [True]
    assert f"\n{name}\n" in page
    assert (f"(not built yet) {COMMANDS[name]}" in page) == (not is_built(name))


@pytest.mark.parametrize("name", BUILT)
def test_a_built_command_has_a_session_that_readme_and_its_page_quote(name):
    session = (ROOT / "tests" / "cli" / "transcripts" / f"{name}.txt").read_text(encoding="utf-8")
    typed = [line for line in session.splitlines() if line.startswith("$ ")]

    assert any(f"llmsys {name}" in line for line in typed)
    for line in typed:
        assert line in (ROOT / "README.md").read_text(encoding="utf-8")
        assert line in plain(MAN / f"llmsys-{name}.1")


def test_the_exit_codes_of_pages_and_readme_are_those_of_the_code():
    """One line per code that `llmsys.cli.main` can return."""
    page = plain(MAN / "llmsys.1").partition("\n.SH EXIT STATUS\n")[2].partition("\n.SH ")[0]
    codes = [int(line) for line in page.splitlines() if line.isdigit()]

    assert codes == [0, 1, 2, 65, 69, 130]


@pytest.mark.parametrize("module", ["build.py", "transcripts.py"])
def test_the_examples_in_the_generators_hold(module):
    run = python("-m", "doctest", f"man/{module}")

    assert run.returncode == 0, run.stdout
