"""`search`: the passages of text files below a directory that fit a query best, by BM25.

The index is built when the first call is named, while its query is still being written. Knows no language: words are
runs of letters and digits, compared without case.
"""

import math
import re
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmsys.errors import Unavailable
from llmsys.tool_serve.effects import Effect
from llmsys.tool_serve.results import ToolResult
from llmsys.tool_serve.tools import CallContext, PartialTool, Tool

__all__ = ["SearchIndex", "search_tool"]

PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "query": {"type": "string", "description": "Words to look for"},
        "k": {"type": "integer", "minimum": 1, "maximum": 20, "description": "How many passages; 3 if not given"},
    },
    "required": ["query"],
    "additionalProperties": False,
}
WORD = re.compile(r"\w+")
MAX_FILE_BYTES = 4 * 2**20
PASSAGE_CHARS = 1200
K1, B = 1.2, 0.75  # BM25's usual constants (Robertson and Zaragoza 2009)


@dataclass(frozen=True, slots=True)
class Passage:
    """Some paragraphs of a file."""

    name: str
    text: str
    counts: Counter[str]


class SearchIndex:
    """The passages below a directory, read once, by whichever thread needs them first."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._passages: list[Passage] = []
        self._holding: Counter[str] = Counter()
        self._mean_words = 1.0
        self._built = False
        self._building = threading.Lock()

    def build(self) -> None:
        """Read the files, unless that is done."""
        with self._building:
            if self._built:
                return
            for path in sorted(self._root.rglob("*")):
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_FILE_BYTES:
                    self._read(path)
            total = sum(one.counts.total() for one in self._passages)
            self._mean_words = max(1.0, total / max(1, len(self._passages)))
            self._built = True

    def _read(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return  # no text
        for part in _passages(text):
            counts = Counter(word.lower() for word in WORD.findall(part))
            self._holding.update(counts.keys())
            self._passages.append(Passage(str(path.relative_to(self._root)), part, counts))

    def best(self, query: str, k: int) -> list[Passage]:
        """The k passages of highest BM25 score above 0, best first, then in order of names."""
        words = [word.lower() for word in WORD.findall(query)]
        scored = [(-self._score(one, words), number) for number, one in enumerate(self._passages)]
        return [self._passages[number] for score, number in sorted(scored)[:k] if score < 0]

    def _score(self, passage: Passage, words: list[str]) -> float:
        size = K1 * (1 - B + B * passage.counts.total() / self._mean_words)
        score = 0.0
        for word in words:
            count, holding = passage.counts[word], self._holding[word]
            rarity = math.log(1 + (len(self._passages) - holding + 0.5) / (holding + 0.5))
            score += rarity * count * (K1 + 1) / (count + size)
        return score


def _passages(text: str) -> list[str]:
    """Paragraphs, joined up to PASSAGE_CHARS."""
    found: list[str] = []
    for part in re.split(r"\n\s*\n", text):
        if found and len(found[-1]) + len(part) < PASSAGE_CHARS:
            found[-1] += f"\n\n{part}"
        elif part.strip():
            found.append(part)
    return found


def search_tool(root: Path) -> Tool:
    """The tool for a directory. Raises Unavailable if there is none at the path."""
    if not root.is_dir():
        raise Unavailable(f"no directory {root}", "name a directory of text files")
    index = SearchIndex(root)
    return Tool(
        name="search",
        description="Search the documents; the result is the passages that fit best.",
        parameters=PARAMETERS,
        make=lambda: _Search(index),
        effect=Effect.PURE,
    )


class _Search(PartialTool):
    """One query; its steps are plain functions, so each runs in a thread."""

    def __init__(self, index: SearchIndex) -> None:
        self._index = index

    def begin(self, ctx: CallContext) -> None:
        self._index.build()

    def finish(self, args: dict[str, Any]) -> ToolResult:
        found = self._index.best(args["query"], int(args.get("k", 3)))
        return ToolResult("".join(f"[{one.name}]\n{one.text.strip()}\n\n" for one in found) or "nothing found\n")
