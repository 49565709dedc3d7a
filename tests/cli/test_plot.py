"""Figures in files: `--plot` of a real verb in every format, and `draw` itself."""

import xml.etree.ElementTree as ET

import pytest

from llmsys.artifacts import Event, EventLog
from llmsys.cli._plot import Figure, Line, draw

FIGURE = Figure("service", "time in s", "cost units", [Line("ann", [0, 1, 2], [0, 3, 4]), Line("bob", [0, 2], [0, 5])])


@pytest.fixture
def log(tmp_path):
    """Two tenants, one request each, three and one tokens."""
    path = tmp_path / "events.jsonl"
    requests = {"ann": 3, "bob": 1}
    records = [Event(t_s=0.0, event="meta", policy="vtc", reserve="sum", memory=100)]
    for name, tokens in requests.items():
        records += [
            Event(t_s=0.0, event="arrive", id=name, tenant=name, prompt_tokens=5),
            Event(t_s=1.0, event="admit", id=name, tenant=name, prompt_tokens=5),
            *[Event(t_s=2.0, event="token", id=name, tenant=name, n=1)] * tokens,
            Event(t_s=3.0, event="finish", id=name, tenant=name),
        ]
    with EventLog(path) as events:
        for record in sorted(records, key=lambda record: record.t_s):
            events.write(record)
    return path


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_audit_draws_every_tenant_in_every_format(shell, log, tmp_path, ending):
    target = tmp_path / f"fair.{ending}"

    run = shell.run("fair-queue", "audit", str(log), "--plot", str(target), "--quiet")

    assert (run.returncode, run.stderr) == (0, "")
    content = target.read_bytes()
    assert content.startswith({"png": b"\x89PNG", "svg": b"<?xml", "html": b"<!doctype html>"}[ending])
    if ending == "html":
        assert b'"ann"' in content
        assert b'"bob"' in content


def test_the_curves_end_at_what_was_served(log):
    from llmsys.fair_queue.audit import service_over_time

    found = service_over_time(log, wp=1.0, wq=2.0)

    assert {name: float(service[-1]) for name, (_, service) in found.items()} == {"ann": 11.0, "bob": 7.0}
    assert [float(t) for t in found["ann"][0]] == [1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("arguments", [("{log}", "--plot", "fair.gif"), ("-", "--plot", "fair.svg")])
def test_a_figure_that_cannot_be_drawn_is_wrong_usage_before_any_work(shell, log, arguments):
    run = shell.run("fair-queue", "audit", *(one.format(log=log) for one in arguments))

    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1


def test_the_same_figure_is_the_same_bytes(tmp_path):
    for name in ("one.svg", "two.svg", "one.html", "two.html", "one.png", "two.png"):
        draw(FIGURE, tmp_path / name)

    assert ET.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
    for ending in ("html", "png"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()
