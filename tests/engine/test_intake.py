import pytest

from llmsys.engine.errors import AdapterError, RequestError
from llmsys.engine.sequence import Request


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        ("", "the prompt is empty"),
        ([1, 259], "prompt ids span 1 to 259; expected 0 to 258"),
        ([-1], "prompt ids span -1 to -1"),
        ([1, "a"], "the prompt mixes kinds"),
        ([1, {"role": "user", "content": "x"}], "the prompt mixes kinds"),
        (list(range(64)), "the prompt has 64 tokens; expected at most 63, as one of 64 is for the answer"),
    ],
    ids=["no tokens", "no text", "too large", "negative", "mixed", "mixed messages", "too long"],
)
def test_what_can_never_run_is_refused_with_the_numbers(parts, prompt, message):
    events = []
    engine = parts.make_engine(max_len=64, on_event=events.append)

    with pytest.raises(RequestError, match=message) as caught:
        engine.add(Request(prompt))
    assert caught.value.request_id == 0
    assert [e.kind for e in events] == ["reject"]
    assert not engine.busy


@pytest.mark.parametrize(("blocks", "max_len", "limit"), [(4, 512, 16), (64, 30, 30)])
def test_the_shorter_of_memory_and_model_is_the_limit(parts, blocks, max_len, limit):
    engine = parts.make_engine(blocks=blocks, max_len=max_len)

    assert engine.max_len == limit
    (done,) = engine.generate([parts.greedy_request([1] * (limit - 1), 100)])
    assert len(done.token_ids) == 1
    with pytest.raises(RequestError, match=f"one of {limit} is for the answer"):
        engine.add(Request([1] * limit))


def test_an_unknown_adapter_is_refused_with_those_that_are_known(parts):
    engine = parts.make_engine()

    with pytest.raises(AdapterError, match="no such adapter 'ana'; registered: bad, de, es, fr, it"):
        engine.add(Request([1], adapter="ana"))
