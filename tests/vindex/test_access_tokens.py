"""A token speaks for its tenant alone, an unknown one for nobody, and a file of weak or double tokens is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsys.errors import BadInput
from llmsys.vindex.access_tokens import Tokens, read_tokens

ANN, BOB, ROOT = "ann-0123456789abcdef", "bob-0123456789abcdef", "root-0123456789abcdef"
LINES = [{"token": ANN, "tenant": "ann"}, {"token": BOB, "tenant": "bob"}, {"token": ROOT, "admin": True}]


def written(tmp_path, lines):
    path = tmp_path / "tokens.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def known(tmp_path):
    return read_tokens(written(tmp_path, LINES))


@pytest.mark.parametrize(("token", "tenant", "admin"), [(ANN, "ann", False), (BOB, "bob", False), (ROOT, None, True)])
def test_a_token_speaks_for_its_own(known, token, tenant, admin):
    caller = known.caller(f"Bearer {token}")

    assert (caller.tenant, caller.admin) == (tenant, admin)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer ", "Bearer", f"Basic {ANN}", f"Bearer {ANN} ", f"Bearer {ANN[:-1]}", f"Bearer {ANN}x"]
)
def test_anything_else_speaks_for_nobody(known, header):
    assert known.caller(header) is None


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_no_text_of_chance_is_let_in(text):
    known = Tokens([*_records()])

    assert (known.caller(f"Bearer {text}") is None) == (text not in (ANN, BOB, ROOT))


def _records():
    from llmsys.vindex.access_tokens import TokenRecord

    return [TokenRecord(line["token"], line.get("tenant"), line.get("admin", False)) for line in LINES]


def test_a_server_without_tokens_lets_everybody_do_everything():
    assert not Tokens()
    assert Tokens().caller(None).admin


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"token": "short", "tenant": "a"}, "guessed"),
        ({"token": ANN}, "nobody or for two"),
        ({"token": ANN, "tenant": "a", "admin": True}, "nobody or for two"),
        ({"tenant": "a"}, "token"),
        ({"token": ANN, "tenat": "a"}, "tenat"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, named):
    with pytest.raises(BadInput, match=f"2: .*{named}|{named}"):
        read_tokens(written(tmp_path, [LINES[0], line]))


def test_a_file_without_tokens_protects_nothing_and_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no token"):
        read_tokens(written(tmp_path, []))
