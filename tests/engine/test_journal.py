"""Events carry the time at which the thing happened, in order."""

GREEDY = {"temperature": 0.0, "ignore_eos": True}


def test_an_admission_is_stamped_when_the_step_was_planned_not_when_it_ended(parts):
    from llmsys.engine.sequence import Request, SamplingParams

    told = []
    engine = parts.make_engine(on_event=told.append)
    execute = engine.runner.execute
    seen_s = []
    engine.runner.execute = lambda plan: (seen_s.append(engine._journal.now_s()), execute(plan))[1]

    engine.generate([Request(prompt=[1, 2, 3], sampling=SamplingParams(max_tokens=2, **GREEDY)) for _ in range(3)])

    times = [event.t_s for event in told]
    assert times == sorted(times)
    assert max(event.t_s for event in told if event.kind == "admit") < seen_s[0]
