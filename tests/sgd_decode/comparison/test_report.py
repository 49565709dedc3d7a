"""From questions to figures: speed per token, likelihood, and what is kept in a file."""

import math

import pytest

from llmsys.errors import LlmsysError, UsageFault
from llmsys.sgd_decode import DecodeSettings, Match, Prompts, Rule, ScriptBackend, StepTime
from llmsys.sgd_decode.comparison import (
    Measures,
    compare,
    compare_saved,
    conditional_fit,
    measures_of,
    mode_reports,
    run_trials,
    whole_fit,
)
from tests.sgd_decode.comparison.test_structure import trial
from tests.sgd_decode.stand_ins import question

PLAN = "1. Alpha | needs - | level 1\n2. Beta | needs 1 | level 1\n3. Gamma | needs - | level 1\nend"
RULES = [
    Rule(Match("Write an outline"), PLAN),
    Rule(Match("Give the skeleton"), "1. Alpha\n2. Beta\n3. Gamma"),
    Rule(Match("about part 1,"), "The code is 4711."),
    Rule(Match("about part 2,", anywhere="4711"), "It was 4711."),
    Rule(Match("about part 2,"), "It was unknown."),
    Rule(Match("about part"), tokens=20),
    Rule(Match("point 1"), "The code is 4711."),
    Rule(Match("point", anywhere="4711"), "It was 4711."),
    Rule(Match("point"), "It was unknown."),
    Rule(Match("Why?"), tokens=40),
]


def answered(modes, *, repeat=1, questions=2):
    settings = [DecodeSettings(mode=mode) for mode in modes]
    backend = ScriptBackend(RULES, step_time=StepTime(1.0, 0.1))
    return run_trials([question(number) for number in range(questions)], backend, settings, repeat=repeat)


def test_the_dependence_test_tells_modes_apart_all_or_nothing():
    """A child is right only if its request holds what its parent found: sgd 100 %, sot 0 %."""
    trials = answered(["sgd", "sgd-v1", "sot"], questions=5)
    right = {
        mode: [trial.parts[1].text == "It was 4711." for trial in trials if trial.mode == mode]
        for mode in ("sgd", "sgd-v1", "sot")
    }

    assert right == {"sgd": [True] * 5, "sgd-v1": [True] * 5, "sot": [False] * 5}


def test_every_question_is_answered_in_every_mode_as_often_as_asked():
    trials = answered(["ar", "sgd"], repeat=3)

    assert [(trial.repeat, trial.question, trial.mode) for trial in trials] == [
        (again, f"q{number}", mode) for again in range(3) for number in range(2) for mode in ("ar", "sgd")
    ]


def test_a_shorter_answer_is_no_speed_up():
    """Half the tokens in half the time is the same rate; the same tokens in half the time is twice as fast."""
    base = [trial(mode="ar", question=name, total_s=10.0, answer_tokens=100) for name in "ab"]
    short = [trial(mode="sot", question=name, total_s=5.0, answer_tokens=50) for name in "ab"]
    fast = [trial(mode="sgd", question=name, total_s=5.0, answer_tokens=100) for name in "ab"]
    plain, skeleton, graph = mode_reports([*base, *short, *fast], ["ar", "sot", "sgd"])

    assert plain.speed_up is None
    assert (skeleton.speed_up.value, graph.speed_up.value) == (1.0, 2.0)


def test_billed_tokens_count_prompts_as_often_as_they_are_sent():
    plain, graph = mode_reports(answered(["ar", "sgd"]), ["ar", "sgd"])

    assert graph.billed_tokens > graph.answer_tokens + graph.plan_tokens
    assert graph.prefill_saved > 0.5
    assert plain.plan_tokens == 0


def counting_scorer(asked):
    """A text costs one nat a word, and half of that where the conversation has said its words already."""

    def score(messages, text):
        asked.append(messages)
        known = " ".join(message["content"] for message in messages)
        words = text.split()
        return sum(0.5 if word in known else 1.0 for word in words), len(words)

    return score


def test_forwarding_gains_where_the_parents_text_makes_the_childs_likelier():
    asked = []
    gain = conditional_fit(answered(["sgd"]), "sgd", counting_scorer(asked), Prompts.load())

    assert gain.value < 0
    assert gain.questions == 2
    assert len(asked) == 2 * 2  # one part with a parent in each answer, with it and without
    assert all(messages[0]["content"] == "Why?" for messages in asked)


def test_parts_without_parents_say_nothing_of_forwarding():
    assert conditional_fit(answered(["sot"]), "sot", counting_scorer([]), Prompts.load()) is None


def test_the_fit_of_whole_answers_is_nats_per_token():
    assert whole_fit(answered(["ar"]), "ar", lambda messages, text: (80.0, 40)).value == 2.0


def test_answers_are_kept_before_a_judge_is_asked(tmp_path):
    kept = tmp_path / "kept.jsonl"
    settings = [DecodeSettings(mode=mode) for mode in ("ar", "sgd")]
    failing = Measures(judge=ScriptBackend([Rule(error="gone")]))
    with pytest.raises(LlmsysError, match="gone"):
        compare([question(0)], ScriptBackend(RULES), settings, failing, save=kept)
    found = compare_saved(kept, Measures())

    assert [report.mode for report in found.modes] == ["ar", "sgd"]
    assert found.ran == ("structure",)


def test_kept_answers_give_the_figures_of_the_first_time(tmp_path):
    kept = tmp_path / "kept.jsonl"
    settings = [DecodeSettings(mode=mode) for mode in ("ar", "sot", "sgd")]
    judge = [Rule(text="general: A")]
    asked = [question(number) for number in range(3)]
    first = compare(asked, ScriptBackend(RULES), settings, Measures(judge=ScriptBackend(judge)), save=kept)

    assert compare_saved(kept, Measures()) == first


def test_what_is_measured_is_what_was_asked_for():
    script = ScriptBackend(RULES)
    opened = []

    assert measures_of("none", script, opened.append) == Measures(structure=False)
    assert measures_of("metrics", script, opened.append) == Measures()
    assert measures_of("URL#m", script, lambda name: script, both_orders=False).judge is script
    assert opened == []
    with pytest.raises(UsageFault, match="135M"):
        measures_of("embedded", script, opened.append)


@pytest.mark.xdist_group("smollm2")
def test_the_real_engine_scores_texts_as_its_own_probabilities_say():
    """The likelihood of a greedy answer is the sum of what the engine said of each token when it wrote them."""
    from llmsys.engine import Engine, EngineConfig
    from llmsys.sgd_decode import EngineBackend
    from llmsys.sgd_decode.backends import Job

    config = EngineConfig(device="cpu", dtype="float32", quant="none", max_sequences=2, max_len=512)
    backend = EngineBackend(Engine.load("smollm2", config=config), slots=2, grammar=False)
    asked = [{"role": "user", "content": "Name three colours."}]
    backend.start(Job("0/answer", asked, 12, min_tokens=12))
    text, nats = "", 0.0
    while deltas := backend.wait():
        text += "".join(delta.text for delta in deltas)
        nats -= sum(delta.logprob or 0.0 for delta in deltas)
    scored, tokens = backend.score(asked, text)
    unlikely, _ = backend.score(asked, "Purple monkeys dishwash the seventh Tuesday.")

    assert tokens == 12
    assert scored == pytest.approx(nats, abs=0.05)
    assert unlikely > scored
    assert math.isfinite(unlikely)
