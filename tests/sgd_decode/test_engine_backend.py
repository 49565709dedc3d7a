"""Jobs on the real engine: grammar, stops, cancellation, pages, refusals, and all modes on real questions."""

import json
import re
from pathlib import Path

import pytest

from llmsys.engine import Engine, EngineConfig
from llmsys.sgd_decode import DecodeSettings, Prompts, Question, answer_all, read_questions, writer_for
from llmsys.sgd_decode.backends import Job, Scoring
from llmsys.sgd_decode.engine_backend import EngineBackend
from llmsys.sgd_decode.plan_grammar import plan_regex

pytestmark = pytest.mark.xdist_group("smollm2")
FIXTURES = Path(__file__).parents[2] / "fixtures" / "sgd-decode"
ASKED = [{"role": "user", "content": "How does a plant grow?"}]


@pytest.fixture(scope="module")
def backend():
    config = EngineConfig(device="cpu", max_sequences=4, spare_rows=16, max_batch_tokens=256, max_len=768)
    return EngineBackend(Engine.load("smollm2", config=config), slots=4)


@pytest.fixture(autouse=True)
def nothing_stays(request):
    """After every test on the shared engine no page is referenced and nothing runs."""
    yield
    if "backend" in request.fixturenames:
        target = request.getfixturevalue("backend")
        stats = target.engine.stats()
        assert (stats.blocks.referenced, stats.running, stats.waiting) == (0, 0, 0)


def written(target, *jobs):
    for job in jobs:
        target.start(job)
    found = {}
    while deltas := target.wait():
        for delta in deltas:
            found.setdefault(delta.job, []).append(delta)
    return found


def text_of(deltas):
    return "".join(delta.text for delta in deltas)


def test_a_plan_under_grammar_is_a_plan_even_from_a_model_of_135m(backend):
    planning = Prompts.load().planning(ASKED, max_nodes=3)
    (deltas,) = written(backend, Job("0/plan", planning, 200, ("\nend",), grammar="plan", max_parts=3)).values()

    assert re.fullmatch(plan_regex(3), text_of(deltas).removesuffix("end").rstrip("\n") + "\nend")
    assert deltas[-1].end == "stop"


def test_the_next_number_ends_a_part_and_is_not_in_it(backend):
    talk = [{"role": "user", "content": "Count: write the numbers 1. to 9., one per line, nothing else."}]
    (deltas,) = written(backend, Job("0/1", talk, 60, ("\n3.",))).values()

    assert "\n3." not in text_of(deltas)


def test_tokens_prompts_and_log_probabilities_are_told(backend):
    (deltas,) = written(backend, Job("0/1", ASKED, 5, min_tokens=5)).values()

    assert sum(delta.tokens for delta in deltas) == 5
    assert deltas[-1].end == "length"
    assert deltas[-1].prompt_tokens > 10
    assert all(delta.logprob <= 0 for delta in deltas if delta.tokens)
    assert [delta.t_s for delta in deltas] == sorted(delta.t_s for delta in deltas)


def test_a_second_job_with_the_same_beginning_computes_what_is_new(backend):
    first = Job("0/1", [*ASKED, {"role": "assistant", "content": "It drinks. " * 30}, ASKED[0]], 2)
    longer = Job("0/2", [*first.messages, {"role": "assistant", "content": "So."}, ASKED[0]], 2)
    apart = Job("0/3", longer.messages, 2, share_prefix=False)
    written(backend, first)
    shared, alone = written(backend, longer)["0/2"][-1], written(backend, apart)["0/3"][-1]

    assert shared.prompt_tokens == alone.prompt_tokens
    assert shared.cached_tokens > 0.7 * shared.prompt_tokens
    assert alone.cached_tokens == 0


def test_cancelled_jobs_give_their_pages_back_at_once_and_the_others_go_on(backend):
    jobs = [Job(f"0/{number}", ASKED, 12, min_tokens=12) for number in range(3)]
    alone = text_of(written(backend, jobs[0])["0/0"])
    for job in jobs:
        backend.start(job)
    deltas = backend.wait()
    for name in ("0/1", "0/2", "0/7"):
        backend.cancel(name)
    while more := backend.wait():
        deltas += more

    assert {delta.job for delta in deltas if delta.end} == {"0/0"}
    assert text_of(delta for delta in deltas if delta.job == "0/0") == alone

    backend.start(jobs[1])
    backend.wait()
    backend.cancel("0/1")
    assert backend.engine.stats().blocks.referenced == 0
    assert backend.wait() == []


def test_a_prompt_that_the_window_does_not_hold_is_refused_for_good(backend):
    endless = [{"role": "user", "content": "word " * 2000}]
    (deltas,) = written(backend, Job("0/1", endless, 5)).values()

    assert deltas[-1].end == "error"
    assert deltas[-1].refused


def test_a_limit_beyond_the_window_is_the_windows(backend):
    (deltas,) = written(backend, Job("0/1", [{"role": "user", "content": "word " * 700}], 500, min_tokens=500)).values()

    assert deltas[-1].end == "length"
    assert sum(delta.tokens for delta in deltas) < 500


def test_step_times_are_not_measured_while_jobs_run(backend):
    backend.start(Job("0/1", ASKED, 2))

    assert backend.step_time() is None
    backend.close()
    assert backend.wait() == []


def test_the_same_seed_is_the_same_text_and_another_is_another(backend):
    def drawn(seed, name):
        job = Job(name, ASKED, 16, temperature=1.0, seed=seed, min_tokens=16)
        return text_of(written(backend, job)[name])

    drawn(1, "0/0")  # from here on all find the prompt in the cache: a prompt in other chunks rounds otherwise
    assert drawn(1, "0/1") == drawn(1, "0/2") != drawn(2, "0/3")


def test_the_engine_tells_likelihoods(backend):
    assert isinstance(backend, Scoring)
    nats, tokens = backend.score(ASKED, "A plant needs water and light.")
    nonsense, _ = backend.score(ASKED, "Zebra quantum the the of of.")

    assert tokens > 4
    assert 0 < nats < nonsense


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ar", "sot", "sgd", "sgd-v1", "auto"])
def test_real_questions_are_answered_in_every_mode_and_every_plan_parses(backend, mode):
    """Three of the Vicuna questions; under grammar no plan needs a repair."""
    chosen = DecodeSettings(mode=mode, max_nodes=3, node_tokens=12, answer_tokens=24)
    asked = list(read_questions(FIXTURES / "vicuna80.jsonl"))[:3]
    answers = list(answer_all(asked, backend, writer_for(chosen), concurrency=2))

    assert [answer.question.id for answer in answers] == [one.id for one in asked]
    assert all(answer.text.strip() and not answer.failed for answer in answers)
    if mode in ("sgd", "sgd-v1"):
        assert all(answer.plan.repairs == () for answer in answers)
        assert all(2 <= len(answer.parts) <= 3 for answer in answers)


@pytest.mark.slow
def test_a_conversation_of_ten_thousand_words_is_answered_or_refused_and_nothing_hangs(backend):
    talk = [{"role": "user", "content": "word " * 10_000}]
    (done,) = answer_all([Question(0, "long", talk)], backend, writer_for(DecodeSettings(answer_tokens=8)))

    assert done.finish == "error"
    assert json.dumps(done.fault)
