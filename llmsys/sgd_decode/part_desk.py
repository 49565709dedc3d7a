"""The parts of one answer: which start next, with which conversation and by which model, and what became of each.

A part's conversation is the plan's, up to its own line (or the whole plan), then its own request; a part with parents
goes on in the conversation of the parent that holds most of them, so that a prefix cache has all but the request. A
part that fails is tried again, then by the other model, then marked. Knows nothing of how the plan came to be.
"""

from collections.abc import Callable, Iterator

from llmsys.sgd_decode.answers import Part, Question, TokenCount
from llmsys.sgd_decode.backends import Delta, Job, Message, Size
from llmsys.sgd_decode.confidence import ConfidenceBook
from llmsys.sgd_decode.forwarding import TIGHT
from llmsys.sgd_decode.glimpses import Glimpse, whole_sentences
from llmsys.sgd_decode.lengths import LengthBook
from llmsys.sgd_decode.plan import Node
from llmsys.sgd_decode.prompting import said
from llmsys.sgd_decode.scheduler import Scheduler
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.writing import Text, at_sentence_end

__all__ = ["PartDesk", "Tell"]

Tell = Callable[..., None]


class PartDesk:
    """Parts by number. `tell(what, node, tokens=, detail=)` hears of what happens to them."""

    def __init__(
        self,
        question: Question,
        settings: DecodeSettings,
        lengths: LengthBook,
        confidence: ConfidenceBook,
        tell: Tell,
    ) -> None:
        self.parts: dict[int, Part] = {}
        self.cancelled: list[str] = []
        self.notes: list[str] = []
        self.tokens = TokenCount()
        self._question = question
        self._settings = settings
        self._lengths = lengths
        self._confidence = confidence
        self._tell = tell
        self._scheduler = Scheduler(lengths.of)
        self._nodes: dict[int, Node] = {}
        self._texts: dict[int, Text] = {}
        self._beginnings: dict[int, Callable[[], list[Message]]] = {}
        self._conversations: dict[int, list[Message]] = {}
        self._holds: dict[int, set[int]] = {}
        self._tries: dict[int, int] = {}
        self._moved: set[int] = set()
        self._tight: set[int] = set()
        self._again: list[Node] = []
        self._ended: set[int] = set()

    @property
    def idle(self) -> bool:
        """Whether every known part is written or given up."""
        return self._scheduler.idle and not self._again

    @property
    def running(self) -> list[int]:
        """Parts that are being written."""
        return sorted(self._scheduler.running)

    def add(self, node: Node, beginning: Callable[[], list[Message]], *, held: bool) -> None:
        """A part, and what gives the conversation it starts from where it does not go on in a parent's.

        One that is held waits for `release`.
        """
        self._nodes[node.id] = node
        self._beginnings[node.id] = beginning
        self._scheduler.add(node, held=held)
        self.parts[node.id] = Part(node.id, node.title, node.needs, node.level)

    def release(self) -> None:
        """Let held parts start."""
        self._scheduler.release()

    def jobs(self, free: int, since_s: float) -> list[Job]:
        """At most `free` parts that can start, the most important first; `since_s` of the question's time is over."""
        again, self._again = self._again[:free], self._again[free:]
        ready = self._scheduler.take(free - len(again))
        return [self._start(node, since_s) for node in (*again, *ready)]

    def take(self, number: int, delta: Delta, since_s: float) -> None:
        """A piece of a part, or its end."""
        part, text = self.parts[number], self._texts[number]
        text.add(delta.text)
        part.tokens += delta.tokens
        part.logprob = _mean(part.logprob, delta.logprob, part.tokens, delta.tokens)
        self._tell("node_token", number, tokens=delta.tokens, detail=delta.text)
        if text.loops and delta.end is None:
            self.cancelled.append(delta.job)
        elif delta.end is None:
            return
        self.tokens.add_prompt(delta)
        self._tell("fork", number, tokens=delta.cached_tokens)
        self._tell("prefill", number, tokens=delta.prompt_tokens - delta.cached_tokens)
        if not self._goes_round_again(number, delta):
            self._end(number, delta, since_s)

    def assembled(self) -> str:
        """The parts' texts in the order of the plan, headings where they are wanted, marks where one is missing."""
        return "\n\n".join(self._body(number, self.parts[number].text) for number in sorted(self.parts))

    def glimpses(self) -> Iterator[Glimpse]:
        """The parts so far, in the order of the plan; nothing is certain of a part that the large model may rewrite."""
        for number in sorted(self.parts):
            part = self.parts[number]
            ended = number in self._ended
            unsure = part.model == "small" and self._settings.routing.escalate
            text = "" if unsure else whole_sentences(str(self._texts.get(number, "")))
            body = self._body(number, part.text if ended else text) if ended or text else ""
            yield Glimpse(number, part.title, body, ended)

    def _body(self, number: int, written: str) -> str:
        """A part as it stands in the answer."""
        part = self.parts[number]
        text = self._settings.prompts.missing(self._nodes[number]) if part.fault else written
        return f"**{part.title}**\n{text}" if self._settings.headings else text

    def give_up(self) -> list[str]:
        """Forget all parts; return the names of those that run."""
        names = [self._name(number) for number in self.running]
        self.tokens.dropped += sum(part.tokens for part in self.parts.values())
        self.tokens.answer = 0
        self.parts.clear()
        self._again.clear()
        return names

    def _goes_round_again(self, number: int, delta: Delta) -> bool:
        """Whether a part that ended is written anew: after a fault, or because the small model was not sure of it."""
        part, node = self.parts[number], self._nodes[number]
        if delta.end != "error":
            wanted = self._settings.routing.escalate and part.model == "small"
            if not (wanted and self._confidence.doubts(part.logprob)):
                return False
            self._moved.add(number)
            self._tell("escalate", number, detail=f"mean log-probability {part.logprob:.3f}")
        elif delta.refused and node.needs and number not in self._tight:
            self._tight.add(number)
            self.notes.append(f"window:{number} sees {TIGHT.tokens} first and last tokens of its parents")
            self._tell("node_retry", number, detail=delta.error)
        elif self._tries[number] <= self._settings.retries and not delta.refused:
            self._tell("node_retry", number, detail=delta.error)
        elif self._settings.routing.pair and number not in self._moved:
            self._moved.add(number)
            self._tries[number] = 0
            self._tell("node_retry", number, detail=f"by the other model: {delta.error}")
        else:
            return False
        self.tokens.dropped += part.tokens
        self._again.append(node)
        return True

    def _end(self, number: int, delta: Delta, since_s: float) -> None:
        part, text = self.parts[number], self._texts[number]
        cut = delta.end == "length" or text.loops
        part.text = (at_sentence_end(str(text)) if cut else str(text)).strip()
        part.fault = delta.error if delta.end == "error" else ""
        part.end_s = since_s
        self.tokens.answer += part.tokens
        self._lengths.learn(self._nodes[number], part.tokens)
        self._scheduler.finish(number)
        self._ended.add(number)
        self._tell("node_end", number, tokens=part.tokens, detail=part.fault)

    def _start(self, node: Node, since_s: float) -> Job:
        part = self.parts[node.id]
        if node.id not in self._tries:
            part.start_s = since_s
        part.tokens, part.logprob, part.model = 0, None, self._model_of(node)
        self._tries[node.id] = self._tries.get(node.id, 0) + 1
        self._texts[node.id] = Text()
        self._conversations[node.id] = messages = self._conversation(node)
        self._tell("node_start", node.id, detail=node.title)
        settings = self._settings
        return Job(
            self._name(node.id),
            messages,
            self._lengths.most(node),
            (f"\n{node.id + 1}.",),
            settings.temperature,
            settings.seed,
            tenant=self._question.tenant,
            model=part.model,
            share_prefix=settings.share_prefix,
        )

    def _model_of(self, node: Node) -> Size:
        routing = self._settings.routing
        small = routing.pair and node.level <= routing.threshold
        return "small" if small != (node.id in self._moved) else "large"

    def _conversation(self, node: Node) -> list[Message]:
        parents = [(self._nodes[need], self.parts[need].text) for need in node.needs if not self.parts[need].fault]
        settings, tight = self._settings, node.id in self._tight
        forward = TIGHT if tight else settings.forward
        asked = self._question.messages[-1]["content"]
        self._holds[node.id] = {node.id, *(parent.id for parent, _ in parents)}
        if parents and settings.continue_parent and forward.kind == "full":
            base = self._base(parents)
            self._holds[node.id] |= self._holds[base.id]
            before = [*self._conversations[base.id], said("assistant", self.parts[base.id].text)]
            others = [(parent, text) for parent, text in parents if parent.id not in self._holds[base.id]]
            return settings.prompts.writing(before, "", node, others)
        seen = [(parent, text) for parent, full in parents if (text := forward.of(full))]
        return settings.prompts.writing(self._beginnings[node.id](), asked, node, seen)

    def _base(self, parents: list[tuple[Node, str]]) -> Node:
        """The parent whose conversation holds the most of all parents' texts, so that the least is left to compute."""

        def held(parent: Node) -> int:
            return sum(len(text) for other, text in parents if other.id in self._holds[parent.id])

        return max((parent for parent, _ in parents), key=lambda parent: (held(parent), -parent.id))

    def _name(self, number: int) -> str:
        return f"{self._question.number}/{number}"


def _mean(known: float | None, new: float | None, tokens: int, new_tokens: int) -> float | None:
    """The mean of log-probabilities over all tokens of a part."""
    if new is None or new_tokens == 0:
        return known
    return new if known is None else known + (new - known) * new_tokens / tokens
