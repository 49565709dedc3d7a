"""What every policy owes, whatever its order: to lose nothing, to hold back nobody who fits, to settle its books."""

import json

import pytest
from fair_driving import admissions, request, works
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.fair_queue.policy import POLICIES, BatchFormer, CacheAware, Preemptive, Throttled, create, token_steps

MEMORY = 60
SPECS = [
    *("fcfs", "rpm=1000", "tpm=1000000", "lcf", "vtc", "vtc:cost=profile", "vtc:cached=0.25", "vtc:predict=ema"),
    *("vtc:predict=oracle", "vtc:predict=oracle50", "drr:quantum=7", "drr:quantum=7,cached=0"),
    *("dlpm:quantum=7,block=2", "edf:ttft=3", "edf:predict=ema,cached=0.5", "slo:ttft=3,tpot=0.5,step=0.25"),
    *("justitia", "justitia:predict=oracle", "equinox", "equinox:alpha=1,predict=none", "fairbatch:inner=lcf"),
    *("fairbatch:tbt=0.5,cached=0.5", "priority", "priority:inner=fcfs,preempt=yes"),
    *("priority:inner=drr,quantum=5,age=3", "priority:inner=edf,preempt=yes,age=9"),
]
COUNTING = [spec for spec in SPECS if spec.startswith(("lcf", "vtc", "edf", "slo", "equinox"))]
CHOICES = st.lists(st.tuples(st.sampled_from("aaaaatttttfcpk"), st.integers(0, 10**6)), max_size=80)


class Served:
    """A policy under a script of arbitrary but sensible calls, with a second set of books."""

    def __init__(self, policy, tenants=3):
        self.policy, self.tenants = policy, tenants
        self.waiting, self.running, self.ended = {}, {}, []
        self.generated, self.cached = {}, {}
        self.now_s = 0.0
        self.count = 0

    def play(self, script):
        for action, choice in script:
            self.now_s += choice % 3
            self.act(action, choice)

    def act(self, action, choice):
        if action == "a":
            self.arrive(choice)
        elif action == "t":
            self.admit(choice % 4)
        elif self.running:
            name = sorted(self.running)[choice % len(self.running)]
            {"f": self.finish, "c": self.cancel, "p": self.preempt, "k": self.cache}[action](name, choice)
        elif self.waiting and action == "c":
            self.cancel(sorted(self.waiting)[choice % len(self.waiting)], choice)

    def arrive(self, choice):
        made = request(self.count, "abc"[choice % self.tenants], choice % 11, choice % 13)
        self.count += 1
        assert self.policy.arrive(made, self.now_s).accepted
        self.waiting[made.id] = made

    def admit(self, room):
        """Offer room; the policy must ask on until it is told no, and not after that."""
        answers = []

        def fits(asked):
            assert asked.id in self.waiting
            assert not answers or answers[-1]
            answers.append(len(answers) < room)
            return answers[-1]

        admitted = self.policy.admit(self.now_s, fits)
        assert len({one.id for one in admitted}) == len(admitted) == sum(answers)
        for one in admitted:
            self.running[one.id] = self.waiting.pop(one.id)
        assert not self.waiting or not answers[-1]
        for one in admitted:
            self.generate(one.id, self.count % 3)

    def generate(self, name, n):
        n = min(n, self.running[name].max_tokens - self.generated.get(name, 0))
        self.policy.tokens(name, n, self.now_s)
        self.generated[name] = self.generated.get(name, 0) + n

    def cache(self, name, choice):
        if isinstance(self.policy, CacheAware):
            self.cached[name] = choice % (self.running[name].prompt_tokens + 1)
            self.policy.cached(name, self.cached[name], self.now_s)

    def finish(self, name, choice):
        self.generate(name, choice % 5)
        self.policy.finish(name, self.now_s)
        self.ended.append(self.running.pop(name))

    def cancel(self, name, choice):
        self.policy.cancel(name, self.now_s)
        where = self.running if name in self.running else self.waiting
        self.ended.append(where.pop(name))

    def preempt(self, name, choice):
        self.policy.preempted(name, self.now_s)
        self.waiting[name] = self.running.pop(name)

    def drain(self):
        while self.waiting or self.running:
            self.admit(2)
            for name in sorted(self.running):
                self.finish(name, 4)


def test_the_list_of_policies_here_is_whole():
    assert set(POLICIES) == {spec.partition(":")[0].partition("=")[0] for spec in SPECS}


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=20, deadline=None)
@given(script=CHOICES)
def test_loses_nothing_and_keeps_nobody_waiting_who_fits(spec, script):
    served = Served(create(spec, {"b": 2.0}))
    served.play(script)
    served.drain()

    assert len(served.ended) == served.count
    assert served.policy.admit(served.now_s, lambda _: True) == []


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=12, deadline=None)
@given(work=works(requests=25))
def test_serves_every_request_once(spec, work):
    order = admissions(create(spec), work, memory=MEMORY)

    assert sorted(item.request.id for item in work) == sorted(order)


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=12, deadline=None)
@given(work=works(requests=25))
def test_a_snapshot_through_json_continues_as_if_nothing_had_happened(spec, work):
    def through_json(policy):
        state = json.loads(json.dumps(policy.snapshot()))
        policy.restore(state)
        assert state == json.loads(json.dumps(policy.snapshot()))

    undisturbed = admissions(create(spec, {"b": 2.0}), work, memory=MEMORY)

    assert undisturbed == admissions(create(spec, {"b": 2.0}), work, memory=MEMORY, on_step=through_json)


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=12, deadline=None)
@given(script=CHOICES)
def test_a_snapshot_after_any_calls_restores_an_equal_policy(spec, script):
    served = Served(create(spec, {"b": 2.0}))
    served.play(script)
    state = json.loads(json.dumps(served.policy.snapshot()))
    other = create(spec, {"b": 2.0})
    other.restore(state)

    assert state == json.loads(json.dumps(other.snapshot()))
    everything = [one.id for one in served.policy.admit(served.now_s, lambda _: True)]
    assert everything == [one.id for one in other.admit(served.now_s, lambda _: True)]


class Ledger(Served):
    """Keeps its own account of a counting policy: lifts as they are seen, the exact bill of every request."""

    def __init__(self, policy, bill, weights):
        super().__init__(policy)
        self.bill, self.weights = bill, weights
        self.expected, self.began, self.waits = {}, {}, {}

    def arrive(self, choice):
        before = dict(self.policy.counters)
        super().arrive(choice)
        made = list(self.waiting.values())[-1]
        self.began[made.id] = self.now_s
        after = self.policy.counters[made.tenant]
        if made.tenant not in before:
            self.expected[made.tenant] = after
        else:
            self.expected[made.tenant] += after - before[made.tenant]

    def preempt(self, name, choice):
        before = dict(self.policy.counters)
        super().preempt(name, choice)
        tenant = self.waiting[name].tenant
        self.expected[tenant] += self.policy.counters[tenant] - before[tenant]

    def admit(self, room):
        waited = {name: self.now_s - began for name, began in self.began.items()}
        super().admit(room)
        for name in self.running:
            if name in self.began:
                self.waits[name] = waited[name]
                del self.began[name]

    def finish(self, name, choice):
        super().finish(name, choice)
        self.settled(name)

    def cancel(self, name, choice):
        ran = name in self.waits
        super().cancel(name, choice)
        if ran:
            self.settled(name)
        self.began.pop(name, None)

    def settled(self, name):
        one = self.ended[-1]
        exact = self.bill(one.prompt_tokens, self.cached.get(name, 0), self.generated.get(name, 0), self.waits[name])
        self.expected[one.tenant] += exact / self.weights.get(one.tenant, 1.0)


def billed(spec):
    """The exact bill of a spec, written down again: prompt, cached, output, seconds waited to cost units."""
    if spec.startswith("equinox"):
        alpha = 1.0 if "alpha=1" in spec else 0.5
        return lambda p, k, q, w: alpha * (p + 2 * q) / (1 + w / 10) + (1 - alpha) * (p + 10 * q)
    if "profile" in spec:
        return lambda p, k, q, w: 0.21001891 * p + 0.10075395 * q + 0.0039868 * p * q + 0.00324733 * q * q + 1.14601454
    price = float(spec.partition("cached=")[2] or 1.0)
    return lambda p, k, q, w: p - (1 - price) * k + 2 * q


@pytest.mark.parametrize("spec", COUNTING)
@settings(max_examples=25, deadline=None)
@given(script=CHOICES)
def test_when_all_have_ended_every_counter_is_the_exact_bill_and_its_lifts(spec, script):
    weights = {"b": 2.0, "c": 0.5}
    ledger = Ledger(create(spec, weights), billed(spec), weights)
    ledger.play(script)
    ledger.drain()

    for tenant, counter in ledger.policy.counters.items():
        assert counter == pytest.approx(ledger.expected[tenant], rel=1e-9, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(CHOICES)
def test_agent_sharing_settles_a_groups_finish_to_its_true_cost(script):
    served = Served(create("justitia:predict=oracle"), tenants=1)
    served.play(script)
    start = dict.fromkeys(served.policy.virtual_finish, 0.0)
    for name, group in list(served.policy.virtual_finish.items()):
        mine = [r for r in (*served.waiting.values(), *served.running.values()) if in_group(r, name)]
        start[name] = group - sum(token_steps(r.prompt_tokens, r.max_tokens) for r in mine)
    served.act("t", 3)
    for name in sorted(served.running)[1:]:
        one = served.running[name]
        key = next(key for key in start if in_group(one, key))
        served.finish(name, 4)
        start[key] += token_steps(one.prompt_tokens, served.generated[name])
    for name, finish in served.policy.virtual_finish.items():
        mine = [r for r in (*served.waiting.values(), *served.running.values()) if in_group(r, name)]
        left = sum(token_steps(r.prompt_tokens, r.max_tokens) for r in mine)
        assert finish == pytest.approx(start[name] + left)


def in_group(one, key):
    tenant, _, name = key.partition("\0")
    return name == one.id if not tenant else (one.tenant, one.group) == (tenant, name)


@pytest.mark.parametrize("spec", SPECS)
def test_calls_that_make_no_sense_name_the_request(spec):
    policy = create(spec)
    policy.arrive(request(7, "a", 1, 1), 0.0)
    with pytest.raises(ValueError, match="'r7' is here already"):
        policy.arrive(request(7, "a", 1, 1), 0.0)
    for call in (policy.finish, policy.preempted, lambda i, t: policy.tokens(i, 1, t)):
        with pytest.raises(ValueError, match="'r7' is not running"):
            call("r7", 0.0)
    with pytest.raises(ValueError, match="'gone' is neither waiting nor running"):
        policy.cancel("gone", 0.0)


def test_who_offers_what_beyond_the_protocol():
    assert [spec for spec in SPECS if isinstance(create(spec), Throttled)] == ["tpm=1000000"]
    assert {spec.partition(":")[0] for spec in SPECS if isinstance(create(spec), Preemptive)} == {"priority"}
    assert {spec.partition(":")[0] for spec in SPECS if isinstance(create(spec), BatchFormer)} == {"fairbatch"}
