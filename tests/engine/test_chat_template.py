"""Chat templates against transformers' own rendering of them, and what a stranger's template may not do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from llmsys.engine.chat_template import ChatTemplate
from llmsys.engine.errors import RequestError

WORDS = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|sys|>\n{% endif %}"
    "{{ '<|' + m.role + '|>' + m['content'] | trim + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TOOLS = (
    "{%- set found = namespace(last=none) %}{%- for m in messages %}\n"
    "    {%- if m.role == 'tool' %}{% continue %}{% endif %}\n"
    "    {%- set found.last = m.content %}{{- m | tojson(indent=2) }}{% endfor %}"
    "{{ bos_token }}{{ found.last }}{{ dict(a='é<&>') | tojson }}{{ tools is none }}"
)
LLAMA = (
    "{%- for message in messages %}{%- if message.tool_calls is defined %}calls{% break %}{% endif %}\n"
    "  {% generation %}{{ message['content'].split('x')[0] }}{% endgeneration %}\n{%- endfor %}"
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": ROLES, "content": st.text(max_size=30)}, optional={"name": st.text(max_size=4)}),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("template", [CHATML, TOOLS, LLAMA])
@given(messages=MESSAGES)
def test_a_template_renders_as_transformers_renders_it(template, messages):
    (theirs,), _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=True, **WORDS)

    assert ChatTemplate(template, WORDS).render(messages) == theirs


def test_a_field_without_a_value_counts_as_missing():
    template = ChatTemplate("{% if messages[0].content is defined %}x{% else %}y{% endif %}", {})

    assert template.render([{"role": "assistant", "content": None}]) == "y"


def test_the_day_may_be_named():
    assert ChatTemplate("{{ strftime_now('%%') }}", {}).render([{}]) == "%"


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[9].role.x }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ namespace(__init__=1) }}",
        "{{ 1 // 0 }}",
        "{{ dict.mro() }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_the_requests_error(template):
    with pytest.raises(RequestError, match="chat template"):
        ChatTemplate(template, {}).render([{"role": "user", "content": "Why?"}])


def test_a_template_that_cannot_be_read_says_why():
    with pytest.raises(RequestError, match="cannot be read"):
        ChatTemplate("{% for %}", {})


def test_a_template_sees_nothing_behind_the_functions_it_is_given():
    assert ChatTemplate("{{ raise_exception.__globals__ }}{{ dict.mro }}", {}).render([{}]) == ""
