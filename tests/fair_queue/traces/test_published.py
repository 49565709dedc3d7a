"""Importing published traces: real rows where we have them, rows by the published schema where we do not."""

import json

import pytest

from llmsys.errors import BadInput, UsageFault
from llmsys.fair_queue.traces import assign_tenants, poisson_arrivals, read_published


def imported(form, path, text, **options):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(assign_tenants(read_published(form, path, **options)))


AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109"
)


def test_azure_times_count_from_the_first_row_to_the_microsecond_and_below(tmp_path):
    first, second = imported("azure", tmp_path / "a.csv", b"\xef\xbb\xbf" + AZURE.encode())

    assert (first.arrival_s, first.prompt_tokens, first.output_tokens) == (0.0, 374, 44)
    assert second.arrival_s == 4.314579


def test_azure_2024_times_with_a_zone_are_read(tmp_path):
    rows = AZURE.replace("6805900", "680590+00:00").replace("9951690", "995169+00:00")

    assert imported("azure", tmp_path / "a.csv", rows)[1].arrival_s == 4.314579


def test_azure_times_can_count_from_a_common_start(tmp_path):
    rows = imported("azure", tmp_path / "a.csv", AZURE, start="2023-11-16 18:15:46")

    assert rows[0].arrival_s == 0.68059


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (AZURE.replace("374", "-1"), "a.csv:2: ContextTokens is '-1'; expected a number of at least 0"),
        (AZURE.replace("374", "x"), "a.csv:2: ContextTokens is 'x'"),
        (AZURE.replace("374", "1.5"), "a.csv:2: ContextTokens is 1.5; expected a whole number"),
        (AZURE.replace(",109", ""), "a.csv:3: 2 columns; expected 3 columns"),
        (AZURE.replace("TIMESTAMP", "TIME"), "a.csv:2: no column 'TIMESTAMP'"),
        (AZURE.replace("50.9951690", "50.99X"), "a.csv:3: TIMESTAMP is"),
        (AZURE.replace("18:15:50", "18:15:01"), "lies before the start; expected times in order"),
    ],
)
def test_a_wrong_azure_row_is_named_by_its_line(wrong, message, tmp_path):
    with pytest.raises(BadInput) as raised:
        imported("azure", tmp_path / "a.csv", wrong)

    assert message in str(raised.value)


BURST = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,s1,1.2,ChatGPT,472,18,490,Conversation log
45,s1,0.9,GPT-4,1087,0,1087,API log
"""


def test_burstgpt_failures_are_dropped_or_kept(tmp_path):
    dropped = imported("burstgpt", tmp_path / "b.csv", BURST)
    kept = imported("burstgpt", tmp_path / "b.csv", BURST, failed="keep")

    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens, r.group, r.adapter) for r in dropped] == [
        (5.0, 472, 18, "s1", "ChatGPT")
    ]
    assert [r.output_tokens for r in kept] == [18, 0]


def test_a_column_can_name_the_tenant(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text(BURST)
    rows = read_published("burstgpt", path, failed="keep")

    assert [r.tenant for r in assign_tenants(rows, rule="by=Log Type")] == ["Conversation log", "API log"]


def test_mooncake_blocks_become_the_prefix(tmp_path):
    line = '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2353]}\n'
    (record,) = imported("mooncake", tmp_path / "m.jsonl", line)

    assert (record.arrival_s, record.prompt_tokens, record.output_tokens) == (27.482, 6955, 52)
    assert record.prefix == (46, 47, 2353)


def test_mooncake_blocks_that_are_no_numbers_are_refused(tmp_path):
    line = '{"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": ["x"]}\n'
    with pytest.raises(BadInput, match=r"m.jsonl:1: hash_ids holds something else than numbers"):
        imported("mooncake", tmp_path / "m.jsonl", line)


def test_a_measured_run_brings_its_tenants_and_ids(tmp_path):
    lines = (
        '{"run":"VTC/real","total_time_s":1.5,"requests":1}\n'
        '{"id":"real-0","tenant":"client-5","arrival_s":0.5,"prompt_tokens":13,"output_tokens":199,"ttft_s":1.0}\n'
    )
    (record,) = imported("vtc-log", tmp_path / "l.jsonl", lines)

    assert (record.id, record.tenant, record.arrival_s) == ("real-0", "client-5", 0.5)


def test_a_batch_becomes_a_trace_with_estimated_prompts(tmp_path):
    body = {"model": "ann", "messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 7}
    line = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body, "tenant": "t"}
    (record,) = imported("openai-batch", tmp_path / "b.jsonl", json.dumps(line))

    assert (record.id, record.tenant, record.adapter) == ("c", "t", "ann")
    assert (record.prompt_tokens, record.output_tokens) == (10, 7)


CHAT = [
    {"from": "human", "value": "a" * 8},
    {"from": "gpt", "value": "b" * 12},
    {"from": "human", "value": "c" * 4},
    {"from": "gpt", "value": "d" * 16},
]


def test_a_conversation_asks_once_per_answer_with_all_that_was_said_before(tmp_path):
    records = imported("sharegpt", tmp_path / "s.json", json.dumps([{"id": "conv", "conversations": CHAT}]))

    assert [(record.prompt_tokens, record.output_tokens) for record in records] == [(2, 3), (6, 4)]
    assert {"conv"} == {record.group for record in records}


def test_a_tokenizer_can_count(tmp_path):
    text = json.dumps([{"id": "conv", "conversations": CHAT[:2]}])
    (record,) = imported("sharegpt", tmp_path / "s.json", text, count_tokens=len)

    assert (record.prompt_tokens, record.output_tokens) == (8, 12)


def test_sources_without_times_get_poisson_arrivals_at_a_rate(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps([{"id": str(n), "conversations": CHAT[:2]} for n in range(2000)]))
    times = [row.arrival_s for row in poisson_arrivals(read_published("sharegpt", path), rate=4.0, seed=1)]

    assert times == sorted(times)
    assert times[-1] == pytest.approx(500.0, rel=0.12)  # 5.3 standard deviations


def test_zipf_draws_the_same_tenants_again_the_first_most_often(tmp_path):
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2023-11-16 18:15:46.0,1,1\n" * 3000
    path = tmp_path / "a.csv"
    path.write_text(text)
    draws = [[r.tenant for r in assign_tenants(read_published("azure", path), rule="zipf:3,alpha=1")] for _ in "ab"]

    assert draws[0] == draws[1]
    assert draws[0].count("tenant-0") > draws[0].count("tenant-1") > draws[0].count("tenant-2") > 0


@pytest.mark.parametrize("rule", ["zipf:0", "zipf:x", "zipf:3,alpha=x", "uniform:3", "by="])
def test_another_rule_for_tenants_is_refused(rule, tmp_path):
    with pytest.raises(UsageFault, match="--tenants"):
        list(assign_tenants(iter(()), rule=rule))


def test_two_ways_to_name_tenants_exclude_each_other():
    with pytest.raises(UsageFault, match="exclude each other"):
        list(assign_tenants(iter(()), tenant="x", rule="by=Model"))


def test_a_real_cut_of_azure_is_read_to_its_last_row_without_newline(published):
    records = list(assign_tenants(read_published("azure", published / "azure2023_conv-first200.csv"), tenant="conv"))

    assert len(records) == 200
    assert (records[-1].arrival_s, records[-1].prompt_tokens, records[-1].output_tokens) == (61.263537, 1143, 409)


def test_a_real_cut_of_mooncake_shares_its_first_block(published):
    records = list(assign_tenants(read_published("mooncake", published / "mooncake_conversation-first40.jsonl")))

    assert len(records) == 40
    assert {record.prefix[0] for record in records} == {0}
    assert all(-(-record.prompt_tokens // 512) == len(record.prefix) for record in records)
