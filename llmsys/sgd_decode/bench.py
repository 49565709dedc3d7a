"""`bench` of this system: modes and peers on one model, and routers beside labels.

Knows nothing of how any of them is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from llmsys.artifacts import read_records
from llmsys.sgd_decode.answers import Question
from llmsys.sgd_decode.backends import Backend
from llmsys.sgd_decode.mode_speed import EngineRow, ModeSpeed, PeerSpeed, bench_modes, bench_peer, speeds
from llmsys.sgd_decode.opening import open_backend
from llmsys.sgd_decode.peers import load_peers
from llmsys.sgd_decode.prompting import Prompts, said
from llmsys.sgd_decode.routers import ByModel, Label, Quality, cross_validate
from llmsys.sgd_decode.settings import DecodeSettings
from llmsys.sgd_decode.step_time import StepTime

__all__ = ["EngineBench", "bench_engine", "bench_routers"]


@dataclass(frozen=True, slots=True)
class EngineBench:
    """What `bench_engine` measured: t(b) of the engine, every mode, every peer."""

    step_time: StepTime | None
    modes: tuple[ModeSpeed, ...]
    peers: tuple[PeerSpeed, ...]
    rows: tuple[EngineRow, ...]

    def remarks(self) -> list[str]:
        """The figures that are read first, in words."""
        lines = []
        if self.step_time is not None:
            wide = self.step_time.of(8) / self.step_time.of(1)
            lines.append(
                f"t(b) = {self.step_time.alpha_s * 1e3:.2f} + {self.step_time.beta_s * 1e3:.2f} b ms; "
                f"t(8) is {wide:.2f} times t(1)"
            )
        for speed in (speed for speed in self.modes if not speed.category):
            split = "" if speed.split_speed_up is None else f", {speed.split_speed_up:.2f} on those split"
            lines.append(f"{speed.mode}: {speed.speed_up:.2f} times a plain answer of as many tokens{split}")
        lines += [f"{peer.peer}: {peer.tok_s:.1f} tokens/s, ours is {peer.ours_ratio:.2f} times" for peer in self.peers]
        return lines


def bench_engine(
    questions: Sequence[Question],
    model: str,
    modes: Sequence[str],
    *,
    slots: int,
    max_nodes: int,
    node_tokens: int | None,
    grammar: bool,
    device: str,
    dtype: str,
    seed: int,
    peer_tokens: int,
    on_done: Callable[[int], None] = lambda count: None,
) -> EngineBench:
    """Measure every mode on a model, then the peers, which write `peer_tokens` tokens each; 0 leaves them out."""

    def open_one() -> Backend:
        return open_backend(model, slots=slots, grammar=grammar, device=device, dtype=dtype, seed=seed)

    def settings(mode: str, step_time: StepTime | None) -> DecodeSettings:
        return DecodeSettings(
            mode=mode, grammar=grammar, max_nodes=max_nodes, node_tokens=node_tokens, seed=seed, step_time=step_time
        )

    rows = bench_modes(open_one, questions, modes, settings, on_done=on_done)
    found = speeds(rows)
    plain_tok_s = fmean(speed.ar_tok_s for speed in found if not speed.category)
    known = load_peers(model) if peer_tokens else {}
    peers = [bench_peer(name, peer, questions[:2], peer_tokens, plain_tok_s) for name, peer in known.items()]
    return EngineBench(open_one().step_time(), tuple(found), tuple(peers), tuple(rows))


def bench_routers(labels: Path, backend: Backend | None, *, seed: int = 0) -> list[Quality]:
    """Compare routers with labels: the constant guess, learnt labels (cross-validated), and a model if one is given."""
    records = list(read_records(labels, Label))
    wanted = [record.parallel_suitable for record in records]
    constant = 2 * sum(wanted) > len(wanted)
    found = [
        Quality.of("constant", [constant] * len(wanted), wanted),
        Quality.of("labels", cross_validate(records, seed=seed), wanted),
    ]
    if backend is not None:
        router = ByModel(Prompts.load())
        verdicts = []
        for number, record in enumerate(records):
            question = Question(number, str(number), [said("user", record.question)])
            backend.start(router.ask(question))
            answer = ""
            while deltas := backend.wait():
                answer += "".join(delta.text for delta in deltas)
            verdicts.append(router.verdict(question, answer) == "graph")
        found.append(Quality.of("model", verdicts, wanted))
    return found
