"""Model shapes: presets, JSON, and what does not fit together."""

import json

import pytest

from llmsys.errors import BadInput, UsageFault
from llmsys.moe_train.train import PRESETS, ModelShape, MoEModel, fresh_expert, read_shape


@pytest.mark.parametrize(("name", "millions"), [("gpt-s", 482), ("gpt-m", 1259), ("gpt-l", 1662), ("tiny", 1.9)])
def test_presets_have_the_papers_sizes_less_its_vocabulary(name, millions):
    assert PRESETS[name].parameters == pytest.approx(millions * 1e6, rel=0.02)


@pytest.mark.parametrize("changes", [{}, {"moe_every": 2}, {"act": "swiglu", "top_k": 2}])
def test_the_count_of_parameters_is_the_models(changes):
    shape = ModelShape(layers=4, d_model=16, d_ff=8, heads=2, experts=3, **changes)
    model = MoEModel(shape, seed=0)
    experts = sum(matrix.numel() for matrix in fresh_expert(shape, 0, 0, 0, model.embedding.weight.dtype).values())

    held = sum(one.numel() for one in model.dense().values())
    assert held + experts * shape.experts * len(shape.mixtures) == shape.parameters


def test_json_is_read_as_given_or_from_a_file_and_two_options_win(tmp_path):
    text = json.dumps({"layers": 3, "experts": 6, "act": "swiglu"})
    path = tmp_path / "shape.json"
    path.write_text(text)

    assert read_shape(text) == read_shape(str(path)) == ModelShape(layers=3, experts=6, act="swiglu")
    assert read_shape(text, experts=9, top_k=3) == ModelShape(layers=3, experts=9, top_k=3, act="swiglu")


def test_every_second_layer_may_be_a_mixture():
    assert ModelShape(layers=5, moe_every=2).mixtures == (1, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"layers":0}', "--model"),
        ('{"dropout":1.0}', "dropout"),
        ('{"act":"relu"}', "relu"),
        ("{", "--model"),
        ("gpt-xl", "no model 'gpt-xl'; expected one of tiny, gpt-s"),
    ],
)
def test_another_form_is_bad_input(text, words):
    with pytest.raises(BadInput, match=words):
        read_shape(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, "d_model 128 and 3 heads"),
        ({"d_ff": 20}, "multiples of 8"),
        ({"top_k": 9}, "top_k 9 of 8 experts"),
        ({"moe_every": 9}, "one mixture at least"),
    ],
)
def test_sizes_that_do_not_fit_together_are_named(changes, words):
    with pytest.raises(UsageFault, match=words):
        read_shape(json.dumps(changes))
