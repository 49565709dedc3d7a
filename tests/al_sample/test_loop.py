"""The loop with oracles on a real pipe: slow, out of order, refusing, dying, hostile; and its journal after a kill."""

import json
import sys

import numpy as np
import pytest

from llmsys.al_sample import (
    ActiveLoop,
    Answer,
    BudgetTooSmall,
    Goal,
    Journal,
    Oracle,
    OracleDied,
    RunKey,
    design_of,
    parse_until,
    pool_of,
    resolve_basis,
    run_loop,
)
from llmsys.errors import BadInput, LlmsysError, UsageFault

VALUES = np.random.default_rng(0).standard_t(4, (600, 3))
TRUTH = VALUES @ [1.0, 2.0, 3.0] + np.random.default_rng(1).standard_normal(600)
KEY = RunKey("0123456789abcdef", "linear", True, 0, 0)
ANSWER = "print(json.dumps({'index': r['index'], 'y': sum(r['x'])}), flush=True)"


@pytest.fixture
def design():
    pool = pool_of(VALUES)
    return design_of(pool, resolve_basis("linear", pool))


@pytest.fixture
def script(tmp_path):
    """Write an oracle that runs `body` for every request r; returns its command line."""

    def write(body, head=""):
        path = tmp_path / "oracle.py"
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        path.write_text(f"import json, os, sys\n{head}\nfor line in sys.stdin:\n    r = json.loads(line)\n{lines}")
        return f"'{sys.executable}' '{path}'"

    return write


def truthful(rows):
    return [Answer(row, float(TRUTH[row])) for row in rows]


def test_a_loop_asks_for_exactly_k_different_points(design):
    asked = []

    def ask(rows):
        asked.extend(rows)
        return truthful(rows)

    loop = ActiveLoop(design, Goal(50), batch=15)
    fit, progress = loop.run(ask, {})

    assert len(asked) == len(set(asked)) == 50
    assert (progress.labels, progress.refused, progress.reached) == (50, 0, None)
    assert np.abs(fit.model.coefficients[1:, 0] - [1, 2, 3]).max() < 1


def test_a_loop_stops_when_the_excess_is_small_enough_or_says_that_it_never_was(design):
    reached = ActiveLoop(design, Goal(400, 0.2)).run(truthful, {})[1]
    never = ActiveLoop(design, Goal(30, 1e-6)).run(truthful, {})[1]

    assert reached.reached
    assert reached.excess_high <= 0.2
    assert reached.labels < 400
    assert (never.reached, never.labels) == (False, 30)


def test_weights_of_several_rounds_estimate_sums_without_bias(design):
    """Balance heuristic: Σ w·f over 200 runs of three rounds at six standard errors; false alarms below 1e-6."""
    f = np.square(VALUES[:, 0])
    sums = []
    for seed in range(200):
        loop = ActiveLoop(design, Goal(10_000), batch=20, seed=seed)
        for number in (1, 2, 3):
            for answer in loop._round(number, truthful, {}):
                loop.answers[answer.index] = answer
        labels = loop.labels()
        sums.append((labels.weight * f[labels.index]).sum())

    assert abs(np.mean(sums) - f.sum()) <= 6 * np.std(sums) / np.sqrt(200)


def test_refused_points_are_replaced_and_left_alone(design):
    asked = []

    def ask(rows):
        asked.extend(rows)
        return [Answer(row, None if row % 5 == 0 else float(TRUTH[row])) for row in rows]

    fit, progress = ActiveLoop(design, Goal(60)).run(ask, {})

    assert fit.labels == 60
    assert progress.refused == sum(row % 5 == 0 for row in asked) > 0
    assert len(asked) == len(set(asked))


def test_a_labeller_that_refuses_everything_ends_the_loop(design):
    with pytest.raises(LlmsysError, match="0 labels and 600 refusals"):
        ActiveLoop(design, Goal(600)).run(lambda rows: [Answer(row, None) for row in rows], {})


def test_what_is_known_is_not_asked_and_the_fit_is_the_same(design):
    first, _ = ActiveLoop(design, Goal(60), batch=20).run(truthful, {})
    loop = ActiveLoop(design, Goal(60), batch=20)
    asked = []

    def ask(rows):
        asked.extend(rows)
        return truthful(rows)

    known = {row: Answer(row, float(TRUTH[row])) for row in range(300)}
    again, _ = loop.run(ask, known)

    assert min(asked) >= 300
    assert again.model.coefficients.tolist() == first.model.coefficients.tolist()


def test_fewer_labels_than_the_rank_are_refused(design):
    with pytest.raises(BudgetTooSmall):
        ActiveLoop(design, Goal(3))


def test_answers_come_in_any_order(design, script):
    head = "held = []"
    body = "held.append(r)\nif len(held) == 5:\n    for r in reversed(held):\n        " + ANSWER + "\n    held = []"
    with Oracle(script(body, head), design.pool, timeout_s=60) as oracle:
        found = list(oracle.ask([3, 1, 4, 15, 9]))

    assert [one.index for one in found] == [9, 15, 4, 1, 3]
    assert found[0].y == pytest.approx(VALUES[9].sum())


def test_more_requests_than_a_pipe_holds_do_not_block(design, script):
    """600 requests of 80 bytes fill a pipe of 64 KiB nearly; the oracle reads them all before it answers the first."""
    head = "class Held(list): pass\nsys.stdin = Held(sys.stdin.readline() for _ in range(600))"
    with Oracle(script(ANSWER, head), design.pool, timeout_s=60) as oracle:
        found = list(oracle.ask(range(600)))

    assert len(found) == 600


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("print('out of paper', file=sys.stderr); sys.exit(3)", "ended with code 3, 2 labels missing.*out of paper"),
        ("print('hello', flush=True)", "oracle: "),
        ('print(\'{"index": 599, "y": 1}\', flush=True)', "index 599, which is not asked"),
        ('print(\'{"index": 0, "y": 1e999}\', flush=True)', "oracle: "),
        ('print(\'{"index": 0, "y": "high"}\', flush=True)', "oracle: "),
        (f"{ANSWER}\n{ANSWER}", "which is not asked"),
    ],
)
def test_an_oracle_that_dies_or_answers_nonsense_is_told(design, script, body, told):
    with pytest.raises(OracleDied, match=told), Oracle(script(body), design.pool, timeout_s=60) as oracle:
        list(oracle.ask([0, 1]))


def test_an_oracle_that_hangs_is_ended_after_its_timeout(design, script):
    command = script("while True:\n    sys.stdin.read(); import signal; signal.pause()")
    with pytest.raises(OracleDied, match=r"silent for 0\.5 s"), Oracle(command, design.pool, timeout_s=0.5) as oracle:
        list(oracle.ask([0, 1]))


def test_a_command_that_is_not_there_is_told(design):
    with pytest.raises(OracleDied, match="code 127"), Oracle("no-such-labeller", design.pool, timeout_s=60) as oracle:
        list(oracle.ask([0]))


def test_an_oracle_that_dies_half_way_leaves_its_answers_and_the_run_goes_on(tmp_path, design, script):
    """Every label is asked for once: the second oracle writes down what it was asked."""
    dying = script(f"n += 1\nif n > 25:\n    sys.exit(1)\n{ANSWER}", head="n = 0")
    with pytest.raises(OracleDied):
        run_loop(design, dying, tmp_path / "state", basis="linear", k=60, batch=20)
    kept = [json.loads(line) for line in (tmp_path / "state" / "journal.jsonl").read_text().splitlines()][1:]
    log = tmp_path / "asked"
    good = script(f"open({str(log)!r}, 'a').write(str(r['index']) + '\\n')\n{ANSWER}")
    _, progress = run_loop(design, good, tmp_path / "state", basis="linear", k=60, batch=20)
    asked = [int(line) for line in log.read_text().split()]

    assert len(kept) == 25
    assert progress.labels == 60
    assert len(asked) == 35
    assert not {one["index"] for one in kept} & set(asked)


def test_a_journal_reads_back_and_drops_a_line_that_was_cut(tmp_path):
    journal = Journal(tmp_path / "state", KEY)
    journal.record(Answer(3, 1.5))
    journal.record(Answer(4, None))
    journal.close()
    path = tmp_path / "state" / "journal.jsonl"
    path.write_bytes(path.read_bytes() + b'{"index":5,"y":')
    again = Journal(tmp_path / "state", KEY)
    again.record(Answer(6, [1.0, 2.0]))
    again.close()
    last = Journal(tmp_path / "state", KEY)
    last.close()

    assert last.answers == {3: Answer(3, 1.5), 4: Answer(4, None), 6: Answer(6, [1.0, 2.0])}


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_journal_cut_anywhere_still_opens(tmp_path, cut):
    journal = Journal(tmp_path, KEY)
    journal.record(Answer(3, 1.5))
    journal.close()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:cut])
    again = Journal(tmp_path, KEY)
    again.close()

    assert set(again.answers) <= {3}


def test_the_journal_of_another_run_is_refused(tmp_path):
    Journal(tmp_path, KEY).close()

    with pytest.raises(BadInput, match="another run"):
        Journal(tmp_path, RunKey("0123456789abcdef", "linear", True, 1, 0))


@pytest.mark.parametrize("text", ["excess", "excess:0", "excess:-1", "excess:x", "labels:3", "excess:inf"])
def test_a_goal_is_an_excess_above_nothing(text):
    with pytest.raises(UsageFault, match="expected excess:X"):
        parse_until(text)


def test_a_run_has_one_goal(tmp_path, design):
    with pytest.raises(UsageFault, match="exactly one"):
        run_loop(design, "true", tmp_path, basis="linear")
