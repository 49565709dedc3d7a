"""What the benchmark compares with: the same calls, cut into the same pieces, and all of them carried out."""

import asyncio

import pytest

from llmsys.tool_serve.bench import WORKLOADS, paced_calls
from llmsys.tool_serve.bench_peers import eager_tools_seconds, has_eager_tools
from llmsys.tool_serve.bench_plan_tool import PLANNER
from llmsys.tool_serve.bench_session import bench_plan, run_bench
from llmsys.tool_serve.catalog import open_catalog


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_pieces_of_a_peers_calls_are_the_whole_of_each_calls_arguments(name):
    text = WORKLOADS[name].text(1)
    calls = paced_calls(text)

    assert [call.name for call in calls]
    assert all("".join(call.parts) in text for call in calls)
    assert sum(len(call.parts) for call in calls) <= len(text) // 4 + 1 + len(calls)


def test_a_plans_steps_start_while_the_rest_is_written_and_save_time():
    (row,) = run_bench(bench_plan("planning", "50", 1), lambda _: None).rows

    assert row.workload == "planning"
    assert row.same_transcripts
    assert row.saved > 0


def test_every_call_of_the_peer_has_a_result():
    pytest.importorskip("eager_tools_openai")

    async def run():
        catalog = open_catalog(["builtin:calculator"], sandbox="auto")
        try:
            return await eager_tools_seconds(catalog.tools, paced_calls(WORKLOADS["calculator"].text(1)), rate=500.0)
        finally:
            await catalog.close()

    seconds, good = asyncio.run(run())
    assert has_eager_tools()
    assert seconds > 0
    assert good == 1


def test_a_peer_is_measured_or_named_as_missing():
    result = run_bench(bench_plan("calculator", "500", 1), lambda _: None)

    assert result.missing == ([] if has_eager_tools() else ["eager-tools"])
    assert (result.rows[0].against_eager is not None) == has_eager_tools()


def test_the_planner_is_a_tool_with_one_text_argument():
    assert list(PLANNER.parameters["properties"]) == ["plan"]
