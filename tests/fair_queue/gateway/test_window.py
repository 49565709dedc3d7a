"""The window: what it lets through, and how it finds itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import UsageFault
from llmsys.fair_queue.gateway.window import Window, parse_window, waiting_in


@pytest.mark.parametrize("text", ["", "0", "-1", "tok", "0tok", "many", "1.5", "٣"])
def test_a_window_that_is_none_is_a_usage_fault(text):
    with pytest.raises(UsageFault, match="auto, N requests or Ntok"):
        parse_window(text)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=60), st.sampled_from(["3", "100tok"]))
def test_a_fixed_window_never_holds_more_than_it_says(steps, spec):
    window, inside = Window(parse_window(spec)), []
    for enter, tokens in steps:
        if enter and window.fits(tokens):
            window.take(tokens)
            inside.append(tokens)
        elif not enter and inside:
            window.release(inside.pop())

        assert (window.requests, window.tokens) == (len(inside), sum(inside))
        assert len(inside) <= 3 if spec == "3" else sum(inside) <= 100


def test_a_request_larger_than_a_token_window_never_fits():
    assert not Window(parse_window("100tok")).could_fit(101)
    assert Window(parse_window("100tok")).could_fit(100)
    assert Window(parse_window("1")).could_fit(10**9)


def settle(capacity, seconds=200):
    """Drive an automatic window in front of a server with `capacity` places until it stands."""
    window = Window(parse_window("auto"))
    seen = []
    for _ in range(seconds):
        while window.fits(1):
            window.take(1)
        waiting = max(0, window.requests - capacity)
        seen.append(waiting)
        for _ in range(min(window.requests, capacity)):
            window.release(1)
        while window.fits(1):
            window.take(1)
        window.adapt(max(0, window.requests - capacity))
        while window.requests > window.limit:
            window.release(1)
    return window.limit, seen


@pytest.mark.parametrize("capacity", [2, 8, 50, 300])
def test_an_automatic_window_finds_the_servers_capacity(capacity):
    limit, _ = settle(capacity)

    assert 0.8 * capacity <= limit <= 1.2 * capacity + 1


def test_an_automatic_window_that_is_not_full_does_not_grow():
    window = Window(parse_window("auto"))
    before = window.limit
    for _ in range(20):
        window.adapt(0)

    assert window.limit == before


def test_without_a_report_slow_first_tokens_lower_the_window():
    window = Window(parse_window("auto"))
    for _ in range(5):
        window.take(1)
        window.first_token(0.01)
    for _ in range(30):
        window.first_token(0.2)
    before = window.limit
    window.adapt(None)

    assert window.limit < before


@pytest.mark.parametrize(
    ("text", "waiting"),
    [
        ('# HELP x\nvllm:num_requests_waiting{engine="0"} 3.0\nvllm:num_requests_waiting{engine="1"} 2.0\n', 5),
        ("llamacpp:requests_deferred 4\n", 4),
        ('sglang:num_queue_reqs{m="a b"} 0.0\n', 0),
        ("vllm:num_requests_running 3\n", None),
        ("vllm:num_requests_waiting x\n", None),
        ("", None),
    ],
)
def test_the_queue_is_read_from_what_servers_report(text, waiting):
    assert waiting_in(text.encode()) == waiting
