"""A mixture layer on real processes against the same layer as a loop over tokens in one."""

import numpy as np
import pytest
import torch

from llmsys.moe_train.train import Communicator, ModelShape, MoELayer, StepContext, fresh_expert
from tests.moe_train.train.programs import mixture_case, router_of

GELU = {"d_model": 8, "d_ff": 16, "heads": 2, "experts": 5}
SWIGLU = GELU | {"act": "swiglu", "top_k": 2, "norm_topk": True}
CASES = [
    (GELU, [7, 4], 3),
    (SWIGLU, [7, 4, 6], 2),
    (GELU, [6, 0, 9], 3),
    (GELU | {"top_k": 5}, [5, 3, 2, 1], 2),
    (GELU, [1], 5),
    (SWIGLU, [0, 3], 4),
]


def dense_loop(shape, rows):
    """Output and all gradients from plain products, token by token and expert by expert."""
    x, weight = mixture_case(1, shape, rows)
    router = router_of(shape)
    experts = [fresh_expert(shape, 0, expert, 0, torch.float64) for expert in range(shape.experts)]
    leaves = [x, router, *(matrix for expert in experts for matrix in expert.values())]
    for leaf in leaves:
        leaf.requires_grad_()
    chances = (x @ router.t()).softmax(-1)
    outputs, counts = [], torch.zeros(shape.experts, dtype=torch.float64)
    for row, chance in zip(x, chances, strict=True):
        best = sorted(range(shape.experts), key=lambda expert: -chance[expert].item())[: shape.top_k]
        scale = sum(chance[expert] for expert in best) if shape.norm_topk else 1.0
        total = torch.zeros_like(row)
        for expert in best:
            counts[expert] += 1
            matrices = experts[expert]
            if shape.act == "swiglu":
                hidden = torch.nn.functional.silu(row @ matrices["w1"]) * (row @ matrices["w3"])
            else:
                hidden = torch.nn.functional.gelu(row @ matrices["w1"])
            total = total + chance[expert] / scale * (hidden @ matrices["w2"])
        outputs.append(total)
    out = torch.stack(outputs)
    balance = shape.experts * (counts / counts.sum() * chances.mean(0)).sum()
    ((out * weight).sum() + balance).backward()
    return (
        out,
        x.grad,
        router.grad,
        [{name: one.grad for name, one in expert.items()} for expert in experts],
        balance,
        counts,
    )


def close(found, expected, tolerance):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max(initial=0.0) <= tolerance * max(1.0, np.abs(expected).max(initial=0.0))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize(("sizes", "rows", "slots"), CASES)
def test_outputs_and_all_gradients_equal_a_dense_loop(ranks, sizes, rows, slots, dtype, tolerance):
    shape = ModelShape(**sizes)
    with ranks("mix", len(rows), shape=sizes, rows=rows, slots=slots, dtype=dtype) as found:
        answers = [rank.answer() for rank in found]
    out, x, router, experts, balance, counts = dense_loop(shape, rows)

    starts = np.cumsum([0, *rows])
    for number, answer in enumerate(answers):
        mine = slice(starts[number], starts[number + 1])
        close(np.asarray(answer["out"]).reshape(-1, shape.d_model), out.detach()[mine], tolerance)
        close(np.asarray(answer["x"]).reshape(-1, shape.d_model), x[mine], tolerance)
        assert answer["tokens"] == counts.tolist()
    close(sum(np.asarray(answer["router"]) for answer in answers), router, tolerance)
    close(sum(answer["balance"] for answer in answers), balance.item(), tolerance)
    for expert, gradients in enumerate(experts):
        for name, expected in gradients.items():
            parts = [answer["experts"][expert][name] for answer in answers if expert in answer["experts"]]
            whole = np.zeros_like(parts[0]) if expected is None else expected
            close(sum(np.asarray(part) for part in parts), whole, tolerance)


def test_a_bias_changes_who_is_chosen_and_no_gate(tmp_path):
    torch.manual_seed(0)
    shape = ModelShape(layers=1, d_model=8, d_ff=8, heads=1, experts=4, balance="bias")
    layer, comm = MoELayer(shape), Communicator(0, tmp_path)
    comm.build(0, [0])
    layer.bank.hold({one: fresh_expert(shape, 0, one, 0, torch.float32) for one in range(4)})
    layer.get_buffer("bias")[2] = 2.0
    x = torch.randn(5, 8)
    context = StepContext(comm, (np.ones((4, 1)),), 5)
    out = layer(x, context)
    comm.close()
    gate = torch.softmax(layer.router(x), dim=-1)[:, 2:3]
    expert = layer.bank(x, [0, 0, 5, 0])

    assert context.routes[0].tokens.tolist() == [0, 0, 5, 0]
    assert torch.allclose(out, gate * expert, atol=1e-6)
