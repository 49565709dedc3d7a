import pytest
import torch

OUT = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"


@pytest.mark.parametrize("fault", [MemoryError(), RuntimeError(OUT), torch.OutOfMemoryError("CUDA out of memory")])
@pytest.mark.parametrize("when", [0, 3, 9])
def test_a_step_without_memory_is_done_with_less(parts, fault, when):
    engine = parts.make_engine()
    engine.runner.faults = [None] * when + [fault, fault]
    requests = [parts.greedy_request(list(range(n, n + 12))) for n in range(4)]

    done = engine.generate(requests)

    assert [c.token_ids for c in done] == [parts.expected_greedy(r.prompt, 12) for r in requests]
    assert engine.stats().preemptions > 0
    parts.check_blocks(engine._blocks)


def test_what_never_fits_ends_with_an_error_and_the_engine_lives_on(parts):
    engine = parts.make_engine()
    engine.runner.faults = [MemoryError()] * 40
    bad = engine.add(parts.greedy_request(list(range(12))))
    events = [e for _ in range(3) for e in engine.step()]

    assert [(e.request_id, e.finish, e.error) for e in events if e.finish] == [
        (bad, "error", "out of memory at 12 tokens, nothing left to free")
    ]
    engine.runner.faults.clear()
    assert engine.generate([parts.greedy_request([1])])[0].finish == "length"
    assert engine.stats().blocks.referenced == 0


def test_other_failures_are_not_hidden(parts):
    engine = parts.make_engine()
    engine.runner.faults = [RuntimeError("shapes do not match")]
    engine.add(parts.greedy_request([1]))

    with pytest.raises(RuntimeError, match="shapes do not match"):
        engine.step()
