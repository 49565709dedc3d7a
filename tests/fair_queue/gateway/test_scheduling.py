"""The parts between arrival and store, without a socket: scheduler, dispatcher, ledger, accounts, estimates."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.fair_queue.gateway import NoJournal, PromptEstimator, Usage, parse_window
from llmsys.fair_queue.gateway.accounts import MOST_ACCOUNTS, Account, Accounts, Histogram
from llmsys.fair_queue.gateway.backend import Backend
from llmsys.fair_queue.gateway.dispatch import Dispatcher, QueueLimits
from llmsys.fair_queue.gateway.ledger import Ledger, Remote
from llmsys.fair_queue.gateway.metrics import MOST_LABELS, Exposition
from llmsys.fair_queue.gateway.queued import Queued
from llmsys.fair_queue.gateway.scheduler import Scheduler
from llmsys.fair_queue.gateway.tenants import NO_LIMITS, TenantLimits
from llmsys.fair_queue.policy import POLICIES, Request

SPECS = {"rpm": "rpm=100000", "tpm": "tpm=100000000"}


class Desk:
    """A dispatcher with backends that are never connected to: jobs only note what happens to them."""

    def __init__(self, *, policy="vtc", window="2", backends=1, limits=None):
        self.accounts = Accounts()
        self.scheduler = Scheduler(policy, {})
        self.ledger = Ledger(self.scheduler, self.accounts)
        self.backends = [
            Backend(f"http://127.0.0.1:{9 + n}", parse_window(window), lambda: None) for n in range(backends)
        ]
        self.estimator = PromptEstimator()
        self.dispatcher = Dispatcher(
            self.scheduler, self.backends, self.ledger, NoJournal(), self.estimator, limits or QueueLimits()
        )
        self.begun = []
        self.number = 0

    def submit(self, tenant, *, prompt=10, most=20):
        self.number += 1
        request = Request(f"r{self.number}", tenant, prompt, most)
        job = Job(self, Queued(request, self.accounts.of(tenant, NO_LIMITS), model="m", units=40))
        job.refusal = self.dispatcher.submit(job)
        return job


class Job:
    def __init__(self, desk, queued):
        self.desk, self.queued, self.expired = desk, queued, False

    def begin(self, backend):
        self.desk.begun.append(self)

    def timed_out(self):
        self.expired = True

    @property
    def running(self):
        return self in self.desk.begun


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_whatever_the_policy_every_request_is_served_once_and_the_books_balance(policy):
    """500 random steps: arrivals, tokens, ends, leaves; at the end nothing is left anywhere."""
    chance = random.Random(7)
    desk = Desk(policy=SPECS.get(policy, policy), window="3", backends=2)
    jobs, over = [], set()
    for _ in range(500):
        job = chance.choice(jobs) if jobs and chance.random() < 0.6 else None
        if job is None:
            jobs.append(desk.submit(chance.choice("abc"), prompt=chance.randint(1, 50), most=chance.randint(1, 30)))
        elif job in over:
            continue
        elif chance.random() < 0.2:
            desk.dispatcher.give_up(job.queued, "client")
            over.add(job)
        elif job.running and chance.random() < 0.5:
            desk.dispatcher.token(job.queued, chance.randint(1, 3))
        elif job.running:
            desk.dispatcher.ended(job.queued, chance.choice([None, Usage(chance.randint(1, 60), job.queued.tokens)]))
            over.add(job)

        assert desk.dispatcher.running == sum(one.window.requests for one in desk.backends) <= 6
        # work conservation: nobody waits while a place is free
        assert desk.dispatcher.waiting == 0 or desk.dispatcher.running == 6
    while len(over) < len(jobs):
        job = next(one for one in jobs if one not in over and one.running)
        desk.dispatcher.ended(job.queued, None)
        over.add(job)

    assert len(set(desk.begun)) == len(desk.begun)
    assert (desk.dispatcher.waiting, desk.dispatcher.running) == (0, 0)
    assert all(account.idle for account in desk.accounts)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 99), st.integers(0, 9), st.integers(1, 99)), max_size=30)
)
def test_counters_end_at_what_backends_counted_whatever_was_estimated(requests):
    desk, served = Desk(window="1"), {"a": 0, "b": 0}
    blocker = desk.submit("keeper", prompt=1)
    jobs = [(desk.submit(tenant, prompt=estimate), tenant, seen, true) for tenant, estimate, seen, true in requests]
    desk.dispatcher.ended(blocker.queued, Usage(0, 0))
    while any(not job.queued.admitted_s or job in desk.begun for job, *_ in jobs):
        job, tenant, seen, true = next(entry for entry in jobs if entry[0] in desk.begun)
        jobs.remove((job, tenant, seen, true))
        desk.begun.remove(job)
        desk.dispatcher.token(job.queued, seen)
        desk.dispatcher.ended(job.queued, Usage(true, seen // 2))
        served[tenant] += true + 2 * (seen // 2)
    accounts = {account.name: account for account in desk.accounts}

    for tenant, cost in served.items():
        if tenant in accounts:
            assert accounts[tenant].prompt_tokens + 2 * accounts[tenant].output_tokens == cost


def test_ten_thousand_queued_requests_that_leave_at_once_cost_nothing():
    desk = Desk(window="1", limits=QueueLimits(per_tenant=10_000))
    first = desk.submit("b")
    crowd = [desk.submit("a") for _ in range(10_000)]
    assert desk.submit("a").refusal.status == 429
    for job in crowd:
        desk.dispatcher.give_up(job.queued, "client")

    assert (desk.dispatcher.waiting, desk.dispatcher.running) == (0, 1)
    assert desk.ledger.counters()["a"] == 10.0  # lifted to b, and charged nothing
    assert desk.accounts.of("a", NO_LIMITS).prompt_tokens == 0
    desk.dispatcher.ended(first.queued, None)
    assert desk.submit("a").running


def test_a_queue_that_is_full_in_all_refuses_everyone():
    desk = Desk(window="1", limits=QueueLimits(total=3))
    jobs = [desk.submit(tenant) for tenant in "abcde"]

    assert [job.refusal and job.refusal.reason for job in jobs] == [None, None, None, None, "queue_total"]


def test_requests_that_wait_too_long_leave_in_order_and_the_rest_stay():
    desk = Desk(window="1", limits=QueueLimits(timeout_s=0.0))
    running, *waiting = [desk.submit("a") for _ in range(4)]
    desk.dispatcher.expire()

    assert not running.expired
    assert all(job.expired for job in waiting)
    assert desk.dispatcher.refused == {"timeout": 3}


def test_a_request_moves_to_a_backend_that_is_up_and_its_place_with_it():
    desk = Desk(backends=2)
    job = desk.submit("a")
    first = job.queued.backend
    second = desk.dispatcher.move(job.queued)

    assert second is not first
    assert (first.window.requests, second.window.requests) == (0, 1)
    first.up = False
    assert desk.dispatcher.move(job.queued) is None


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_weights_change_in_mid_air_and_nothing_is_lost(policy):
    desk = Desk(policy=SPECS.get(policy, policy), window="1")
    jobs = [desk.submit(tenant) for tenant in "aabb"]
    desk.dispatcher.token(jobs[0].queued, 3)
    desk.scheduler.reweigh({"a": 4.0})
    for _ in jobs:
        desk.dispatcher.ended(desk.begun[-1].queued, None)

    assert len(desk.begun) == 4


@pytest.mark.parametrize("before", ["vtc", "fcfs", "drr"])
@pytest.mark.parametrize("after", sorted(POLICIES))
def test_any_policy_may_be_switched_to_while_requests_wait_and_run(before, after):
    desk = Desk(policy=before, window="2")
    jobs = [desk.submit(tenant) for tenant in "aaabbb"]
    desk.dispatcher.token(jobs[0].queued, 3)
    desk.scheduler.switch(SPECS.get(after, after), 1.0)
    for _ in jobs:
        job = desk.begun.pop(0)
        desk.dispatcher.ended(job.queued, None)

    assert desk.dispatcher.running == desk.dispatcher.waiting == 0


def test_the_ledger_takes_each_change_once():
    desk = Desk(window="1")
    job, waiting = desk.submit("a"), desk.submit("b")
    desk.dispatcher.token(job.queued, 2)
    desk.dispatcher.charge()
    first, second = desk.ledger.take(), desk.ledger.take()

    assert first.counters == {"a": 14.0, "b": 10.0}
    assert [one.output_tokens for one in first.running] == [2]
    assert first.totals["a"] == (1, 10, 2)
    assert second.empty
    desk.dispatcher.ended(job.queued, None)
    assert desk.ledger.take().ended == [job.queued.request.id]
    assert waiting.running


def test_the_live_bound_is_how_far_a_counter_grew_since_its_last_admission():
    desk = Desk(window="1")
    job = desk.submit("a", prompt=10)
    desk.dispatcher.token(job.queued, 45)
    desk.dispatcher.charge()
    desk.ledger.take()

    assert desk.ledger.bound == 10 + 2 * 45


def test_nobody_starts_below_the_floor_of_an_earlier_life():
    desk = Desk(window="1")
    desk.ledger.resume({"old": 50.0, "ahead": 500.0}, floor=100.0)
    desk.submit("new", prompt=10)
    desk.submit("old")

    counters = {name: desk.scheduler.counted.counter(name) for name in ("ahead", "new", "old")}
    assert counters == {"ahead": 500.0, "new": 110.0, "old": 110.0}


def test_what_another_replica_served_counts_here_and_lifts_newcomers():
    desk = Desk(window="1")
    desk.submit("a", prompt=10)
    desk.ledger.apply(Remote(served={"a": 90.0}, least=80.0))
    desk.submit("b")

    assert desk.ledger.counters()["a"] == 100.0
    assert desk.ledger.take().raised["b"] >= 80.0


def test_retry_after_follows_the_measured_drain():
    account = Account("a", NO_LIMITS)
    for now_s in range(10):
        account.dispatched(10.0 + 3 * now_s)
    account.queued = 50

    assert account.retry_after_s() == 15


def test_requests_a_minute_are_a_sliding_window():
    account = Account("a", TenantLimits(rpm=2))
    for now_s in (0.0, 30.0):
        assert account.over_rpm_s(now_s) == 0
        account.accept(now_s)

    assert account.over_rpm_s(40.0) == 20.0
    assert account.over_rpm_s(60.0) == 0


@given(st.lists(st.floats(0, 1000), max_size=50))
def test_a_histogram_counts_every_observation_under_its_bound(values):
    histogram = Histogram()
    for value in values:
        histogram.add(value)

    for bound, count in histogram.buckets():
        assert count == sum(value <= float(bound) for value in values)


def test_tenants_past_the_limit_share_a_label_and_idle_ones_their_account():
    desk = Desk(window="1")
    for number in range(MOST_LABELS + 50):
        account = desk.accounts.of(f"t{number}", NO_LIMITS)
        account.requests, account.prompt_tokens = 2 + (number < 5), 7
    page = Exposition(desk.accounts, desk.dispatcher, desk.ledger).render().decode()

    assert page.count("fair_requests_total{") == MOST_LABELS + 1
    assert 'fair_service_tokens_total{kind="prompt",tenant="other"} 350.0' in page
    for number in range(MOST_ACCOUNTS):
        desk.accounts.of(f"u{number}", NO_LIMITS).requests = 1
    desk.accounts.prune(100.0)

    assert len(desk.accounts) <= MOST_ACCOUNTS
    assert desk.accounts.other.requests > 0


def test_a_tenants_name_is_escaped_in_metrics():
    desk = Desk()
    desk.accounts.of('x"y\n\\z', NO_LIMITS).requests = 1
    page = Exposition(desk.accounts, desk.dispatcher, desk.ledger).render()

    assert rb'tenant="x\"y\n\\z"' in page


def test_an_estimate_comes_nearer_to_what_backends_count():
    estimator = PromptEstimator()
    errors = []
    for _ in range(30):
        errors.append(abs(estimator.tokens(900, "m") - 300))
        estimator.learn(900, "m", 300)

    assert errors[0] == 75
    assert errors[-1] <= 1
    assert estimator.tokens(900, "another") == 225


def test_a_tokenizer_counts_the_texts_of_a_body(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    estimator = PromptEstimator(tmp_path)

    assert estimator.tokens(estimator.units(b'{"messages":[{"content":"one two three"}],"x":"no"}'), "m") == 3
    with pytest.raises(BadInput, match=r"tokenizer\.json"):
        PromptEstimator(tmp_path / "nothing")
