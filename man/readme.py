"""The parts of README.md that cog writes from the tree: `cog -r -I man README.md`."""

from pathlib import Path

import facts
import transcripts

from llmsys.cli._commands import COMMANDS, LazyCommand, is_built, verbs_of
from llmsys.cli._root import root_group

__all__ = ["command_table", "demo_pipeline", "examples", "exit_codes", "file_formats", "pipelines"]

DEMO = Path(__file__).resolve().parent.parent / "demo.sh"

SYSTEMS = {
    "compress": "LLM.265",
    "serve-lora": "Punica; AI-native LMaaS",
    "fair-queue": "VTC",
    "tool-serve": "Conveyor",
    "sgd-decode": "Skeleton Graph Decoding",
    "moe-train": "Lazarus",
    "vindex": "Curator",
    "pse-hash": "Adam-Hash",
    "al-sample": "Active learning, nearly orthogonal bases",
}


def command_table() -> str:
    """The nine systems, what each does, and which of its verbs this tree holds."""
    rows = ["| command | system | what it does | verbs that work |", "| --- | --- | --- | --- |"]
    for name, system in SYSTEMS.items():
        rows.append(f"| `llmsys {name}` | {system} | {COMMANDS[name]} | {_verbs(name)} |")
    return "\n".join(rows)


def _verbs(name: str) -> str:
    command = root_group().commands[name]
    assert isinstance(command, LazyCommand)
    return ", ".join(verb for verb, _ in verbs_of(command.load())) if is_built(name) else "not built yet"


def demo_pipeline() -> str:
    """The commands that `make demo` runs, as a block of shell."""
    commands = DEMO.read_text(encoding="utf-8").split("# the pipeline\n")[1].split("# the end\n")[0]
    return f"```sh\n{commands}```"


def examples() -> str:
    """One worked example per built command: its main transcript, which the tests replay."""
    blocks = []
    for name in COMMANDS:
        path = transcripts.DIRECTORY / f"{name}.txt"
        if is_built(name) and path.exists():
            steps = transcripts.read_steps(path.read_text(encoding="utf-8"))
            session = "".join(step.text for step in steps).rstrip()
            blocks.append(f"### `llmsys {name}`\n\n{COMMANDS[name]}\n\n```console\n{session}\n```")
    return "\n\n".join(blocks)


def pipelines() -> str:
    """The pipelines that cross commands: transcripts that the tests replay, under the title of their first comment."""
    blocks = []
    for path in sorted(transcripts.DIRECTORY.glob("pipeline-*.txt")):
        text = path.read_text(encoding="utf-8")
        comment = next(line for line in text.splitlines() if line != "# slow").removeprefix("# ")
        title, _, what = comment.partition(": ")
        session = "".join(step.text for step in transcripts.read_steps(text)).rstrip()
        blocks.append(f"### {title}\n\n{what[:1].upper()}{what[1:]}\n\n```console\n{session}\n```")
    return "\n\n".join(blocks)


def exit_codes() -> str:
    """The exit codes as a table."""
    rows = [f"| {code} | {meaning} |" for code, meaning in facts.EXIT_CODES.items()]
    return "\n".join(["| code | meaning |", "| --- | --- |", *rows])


def file_formats() -> str:
    """The file formats as a table."""
    rows = [f"| {what} | {how} |" for what, how in facts.FILES.items()]
    return "\n".join(["| what | format |", "| --- | --- |", *rows])
