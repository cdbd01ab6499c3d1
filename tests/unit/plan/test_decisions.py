"""What is decided without the model is decided again when it is there."""

import json

from nbft.config import Config
from nbft.decisions import PARTS, Decisions, decide


def test_nothing_is_final_before_the_model_is_there(tmp_path):
    asked = {"data.packing": True, "memory.use_attn_mask_start_row_indices": True}
    config = Config(model={"model_name": "somebody/model"}).apply(asked)
    before = decide(config)
    assert not before.is_final
    assert not before.uses("row_attention")
    about = {"model_type": "gemma2", "attn_logit_softcapping": 50.0}
    (tmp_path / "config.json").write_text(json.dumps(about), encoding="utf-8")
    after = decide(config, tmp_path)
    assert after.is_final
    assert after.parts["row_attention"].reason == "this model caps its attention scores"


def test_decisions_are_read_as_they_were_written():
    decisions = decide(Config())
    assert Decisions.from_dict(json.loads(json.dumps(decisions.to_dict()))) == decisions
    assert {*decisions.to_dict()["parts"]} == {*PARTS}
    for broken in (None, {}, {"device": 3}, {**decisions.to_dict(), "parts": {}}):
        assert Decisions.from_dict(broken) is None
