"""The gateway between a real client and a real socket: what passes, what is refused, what is charged."""

import json
import subprocess

import pytest


def test_a_whole_answer_passes_unchanged(gateway, backend):
    status, headers, body = gateway.chat(script={"tokens": 3})

    assert status == 200
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["usage"] == {"prompt_tokens": 7, "completion_tokens": 3}
    assert json.loads(backend.served[0].raw)["script"] == {"tokens": 3}


def test_a_stream_passes_unchanged_without_the_usage_that_only_the_gateway_asked_for(gateway, backend):
    status, headers, body = gateway.chat(script={"tokens": 2}, stream=True)

    assert status == 200
    assert headers["x-from"] == "backend"
    assert backend.served[0].body["stream_options"] == {"include_usage": True}
    assert body.count(b"data: ") == 5
    assert b"usage" not in body
    assert body.endswith(b"data: [DONE]\n\n")
