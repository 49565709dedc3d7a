"""The grammar of --policy: what it accepts, and that every mistake is named with what would be right."""

import pytest

from llmsys.errors import UsageFault
from llmsys.fair_queue import policy
from llmsys.fair_queue.policy import POLICIES, PolicySpecError, create


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vtcc", "no policy is named 'vtcc'; known: fcfs, rpm, tpm, lcf, vtc, drr"),
        ("vtc:wr=2", "policy vtc has no key 'wr'; allowed: cached, cost, predict, seed, wp, wq"),
        ("vtc:wq=0", "policy vtc: wq=0 is not a number above 0"),
        ("vtc:wq=nan", "policy vtc: wq=nan is not a number above 0"),
        ("vtc:wp=-1", "policy vtc: wp=-1 is not a number of at least 0"),
        ("vtc:predict=magic", "predict=magic is not one of none, ema, oracle"),
        ("vtc:wq", "'wq' is not key=value"),
        ("vtc:cached=2", "policy vtc: cached=2 is not a number of at least 0 and at most 1"),
        ("priority:inner=rpm", "policy priority: inner=rpm is not one of vtc, lcf, drr"),
        ("priority:inner=lcf,wr=2", "policy lcf has no key 'wr'"),
        ("priority:age=0", "policy priority: age=0 is not a number above 0"),
        ("edf:ttl=1", "policy edf has no key 'ttl'; allowed: cached, cost, predict, seed, ttft, wp, wq"),
        ("equinox:alpha=1.5", "alpha=1.5 is not a number of at least 0 and at most 1"),
        ("fairbatch:tbt=0", "tbt=0 is not a number above 0"),
        ("rpm", "policy rpm needs limit=N"),
        ("rpm=x", "policy rpm: limit=x is not a number of at least 1"),
        ("fcfs:wq=2", "policy fcfs has no key 'wq'; allowed: none"),
        ("fcfs,vtc:wq=2", "separate policies that have options by ';'"),
        ("", "no policy is named ''"),
    ],
)
def test_a_bad_spec_says_what_is_wrong_and_what_is_allowed(spec, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        create(spec)

    assert message in str(raised.value)
    assert isinstance(raised.value, UsageFault)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_cannot_divide_names_its_tenant(weight):
    with pytest.raises(PolicySpecError, match=r"weight of tenant 'a' is .*; expected a finite number above 0"):
        create("vtc", weights={"a": weight})


@pytest.mark.parametrize("name", POLICIES)
def test_every_name_of_the_grammar_builds(name):
    create(f"{name}=60" if name in ("rpm", "tpm") else name)


def test_short_and_long_form_of_a_limit_are_one():
    assert create("rpm=5").snapshot() == create("rpm:limit=5").snapshot()


def test_the_package_exports_what_it_lists():
    assert sorted(policy.__all__, key=lambda name: (not name.isupper(), name)) == policy.__all__
    assert all(hasattr(policy, name) for name in policy.__all__)
