"""A batch read as a person compares it: one prompt, and what each model or adapter answered.

Knows the batch format only; runs nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from llmsys.artifacts import BatchRequest, BatchResult, read_records, read_requests

__all__ = ["PromptAnswers", "answers_by_prompt"]


@dataclass(frozen=True, slots=True)
class PromptAnswers:
    """One prompt and its answers by model name; a request that failed shows its error."""

    prompt: str
    answers: dict[str, str]


def answers_by_prompt(requests: str, results: str, *, limit: int | None = None) -> Iterator[PromptAnswers]:
    """Every prompt in the order of the requests, those that most models answered first.

    Raises BadInput at FILE:LINE for a line of either file that does not fit its format.
    """
    texts = {result.custom_id: _text(result) for result in read_records(results, BatchResult)}
    found: dict[str, dict[str, str]] = {}
    for request in read_requests(requests):
        if request.custom_id in texts:
            found.setdefault(_prompt(request), {}).setdefault(request.body.model, texts[request.custom_id])
    most_answered = sorted(found.items(), key=lambda item: -len(item[1]))
    return (PromptAnswers(prompt, answers) for prompt, answers in islice(most_answered, limit))


def _prompt(request: BatchRequest) -> str:
    """The last thing that was said, or the text to be completed."""
    if request.body.messages:
        return request.body.messages[-1].text
    return str(request.body.prompt)


def _text(result: BatchResult) -> str:
    if result.response is None:
        return f"error: {result.error.message}" if result.error is not None else "error"
    choice = result.response.body["choices"][0]  # type: ignore[index]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])
