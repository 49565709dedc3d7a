"""Answers held to JSON: whatever the logits want, the text parses and fits its schema, and then it ends."""

import json

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsys.engine.config import EngineConfig
from llmsys.engine.core import Engine
from llmsys.engine.errors import RequestError
from llmsys.engine.json_grammar import JsonGrammar, schema_of
from llmsys.engine.sequence import Request, SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine(tiny_model):
    return Engine.load(str(tiny_model), config=EngineConfig(dtype="float32", prefix_cache=False, cache_bytes=0))


@pytest.fixture(scope="module")
def grammar(engine):
    return JsonGrammar(engine.tokenizer)


def held(engine, grammar, seed, schema=SCHEMA, prompt=(5, 6, 7), **sampling):
    mask = grammar.mask(schema, prompt_tokens=len(prompt), vocab=258)
    chosen = SamplingParams(**{"max_tokens": 200, "seed": seed, "logits_processor": mask} | sampling)
    return Request(list(prompt), chosen)


@settings(max_examples=25)
@given(st.integers(0, 1 << 30))
def test_a_random_model_writes_what_the_schema_says_and_stops(engine, grammar, seed):
    (answer,) = engine.generate([held(engine, grammar, seed)])

    assert answer.finish == "stop"
    jsonschema.validate(json.loads(answer.text), SCHEMA)


def test_answers_of_one_batch_are_held_each_to_its_own(engine, grammar):
    schemas = [{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}, {"enum": ["x", 7]}]

    answers = engine.generate([held(engine, grammar, seed, schemas[seed % 2]) for seed in range(8)])

    for seed, answer in enumerate(answers):
        jsonschema.validate(json.loads(answer.text), schemas[seed % 2])


def test_past_its_end_an_answer_has_end_tokens_only(engine, grammar):
    mask = grammar.mask({"const": 1}, prompt_tokens=1, vocab=258)
    (one,) = engine.tokenizer.encode("1")
    (end,) = engine.tokenizer.eos_ids
    allowed = []
    for ids in ((9,), (9, one), (9, one, end), (9, one, end, 77)):
        logits = torch.zeros(258)
        mask(ids, logits)
        allowed.append(logits.isfinite().nonzero().flatten().tolist())

    assert allowed == [[one], [end], [end], [end]]


def test_an_answer_that_may_not_end_keeps_the_engine_alive(engine, grammar):
    (answer,) = engine.generate([held(engine, grammar, 1, {"const": 1}, ignore_eos=True, max_tokens=6)])

    assert (answer.text, answer.finish) == ("1", "length")


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, SCHEMA),
    ],
)
def test_a_response_format_names_a_schema(given_, found):
    assert schema_of(given_) == found


@pytest.mark.parametrize(
    "given_",
    [
        {},
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"schema": "x"}},
        {"type": 1},
    ],
)
def test_a_response_format_that_is_none_is_refused(given_):
    with pytest.raises(RequestError, match="response_format"):
        schema_of(given_)


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ({"type": "colour"}, "schema"),
        ({"$ref": "http://example.org/x"}, "schema"),
        ({"enum": ["x" * 70_000]}, "65536"),
    ],
)
def test_a_schema_that_cannot_be_held_to_is_refused_in_one_line(grammar, schema, wrong):
    with pytest.raises(RequestError, match=wrong) as caught:
        grammar.mask(schema, prompt_tokens=0, vocab=258)

    assert "\n" not in str(caught.value)
