"""Texts and their lengths: prompts from JSON Lines, and token counts by a tokenizer's file."""

from collections.abc import Callable, Iterator
from pathlib import Path

from llmsys.errors import BadInput
from llmsys.fair_queue.traces.rows import jsonl_rows

__all__ = ["count_with", "read_prompts"]

FIELDS = ("question", "prompt", "text")


def read_prompts(source: str | Path) -> Iterator[str]:
    """Yield the prompt of each line: its `question`, else `prompt`, else `text`, else the first of its `turns`.

    Raises BadInput at FILE:LINE where there is none.
    """
    for row in jsonl_rows(source):
        turns = row.values.get("turns")
        candidates = [row.values.get(field) for field in FIELDS]
        candidates += turns[:1] if isinstance(turns, list) else []
        found = next((text for text in candidates if isinstance(text, str) and text), None)
        if found is None:
            raise BadInput(row.where, "no prompt", f"a text in one of {', '.join(FIELDS)}, or turns")
        yield found


def count_with(directory: Path) -> Callable[[str], int]:
    """A counter of tokens by `directory/tokenizer.json`. Raises BadInput if that cannot be read."""
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise BadInput(str(path), str(error), "a tokenizer as transformers saves it") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
