import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.engine.errors import RequestError
from llmsys.engine.sequence import Request, SamplingParams


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", 2.1, "temperature is 2.1; expected 0 to 2"),
        ("temperature", float("nan"), "temperature is nan; expected 0 to 2"),
        ("top_p", 0, "top_p is 0; expected more than 0"),
        ("top_k", -1, "top_k is -1; expected 0 to"),
        ("max_tokens", 0, "max_tokens is 0; expected 1 to"),
        ("presence_penalty", -2.5, "expected -2 to 2"),
        ("frequency_penalty", 3, "expected -2 to 2"),
        ("repetition_penalty", 0, "repetition_penalty is 0"),
        ("seed", -1, "seed is -1; expected 0 to"),
        ("n", 129, "n is 129; expected 1 to 128"),
        ("logprobs", 21, "logprobs is 21; expected 0 to 20"),
        ("stop", ["a"] * 17, "stop has 17 strings; expected at most 16"),
        ("stop", ["a", ""], "none of them empty"),
        ("stop", "", "none of them empty"),
        ("logit_bias", {3: 101}, "logit_bias of token 3 is 101; expected -100 to 100"),
        ("allowed_token_ids", [], "allowed_token_ids is empty"),
    ],
)
def test_a_parameter_out_of_range_is_named_with_its_range(field, value, message):
    with pytest.raises(RequestError, match=message):
        SamplingParams(**{field: value})


@given(st.floats(0, 2), st.floats(0, 1, exclude_min=True), st.integers(1, 128), st.none() | st.integers(0, 20))
def test_everything_the_api_allows_is_taken(temperature, top_p, n, logprobs):
    params = SamplingParams(temperature=temperature, top_p=top_p, n=n, logprobs=logprobs, stop="END", seed=2**64 - 1)

    assert (params.temperature, params.top_p, params.n, params.stop) == (temperature, top_p, n, ("END",))


def test_text_has_no_token_count_before_it_is_tokenized():
    assert Request([1, 2, 3]).prompt_tokens == 3
    with pytest.raises(RequestError, match="the prompt is text"):
        _ = Request("text").prompt_tokens
