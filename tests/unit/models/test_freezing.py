import re

import pytest

from nbft.models.freezing import frozen_pattern


@pytest.mark.parametrize(
    ("name", "layer", "meant"),
    [
        ("embed_tokens", "model.embed_tokens", True),
        ("layers.1", "model.layers.1.mlp.up_proj", True),
        ("layers.1", "model.layers.10.mlp.up_proj", False),
        ("layers.?", "model.layers.10", False),
        ("layers.*.mlp", "model.layers.10.mlp.gate_proj", True),
        ("layers.*.mlp", "model.layers.10.self_attn.q_proj", False),
        ("model.norm", "base_model.model.model.norm", True),
        ("norm", "model.layers.0.input_layernorm", False),
        ("a+b", "model.a+b", True),
    ],
)
def test_what_a_name_means(name, layer, meant):
    assert bool(re.fullmatch(frozen_pattern(["nothing", name]), layer)) == meant


def test_no_name_means_no_layer():
    assert not re.fullmatch(frozen_pattern([]), "model.layers.0")
