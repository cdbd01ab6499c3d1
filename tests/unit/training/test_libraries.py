"""The imports that every run begins with, which take most of its start."""

import json
import subprocess
import sys

import pytest

import nbft
from nbft.training.worker import _may_be_quantised

IMPORTS = """
import sys
from nbft.training.libraries import import_libraries

import_libraries(owns_process={owns_process}, is_quantised={is_quantised})
print("bitsandbytes" in sys.modules)
import bitsandbytes, peft
print(peft.LoraConfig.__name__)
"""


@pytest.mark.parametrize(
    ("owns_process", "is_quantised", "is_imported"),
    [(True, False, False), (True, True, True), (False, False, True)],
)
def test_bitsandbytes_is_imported_where_it_may_be_needed(owns_process, is_quantised, is_imported):
    pytest.importorskip("bitsandbytes")
    code = IMPORTS.format(owns_process=owns_process, is_quantised=is_quantised)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == [str(is_imported), "LoraConfig"]


@pytest.mark.parametrize(
    ("changes", "may_be"),
    [
        ({}, False),
        ({"quantization.load_in_4bit": True}, True),
        ({"optimizer.optim": "adamw_8bit"}, True),
        ({"optimizer.optim": "paged_adamw_32bit"}, True),
        ({"optimizer.optim": "lion_32bit"}, True),
        ({"optimizer.optim": "sgd"}, False),
        ({"model.model_init_kwargs": {"load_in_4bit": True}}, True),
        ({"model.model_init_kwargs": {"quantization_config": {"load_in_4bit": True}}}, True),
        ({"model.model_name": "somebody/not-here-yet"}, True),
    ],
)
def test_weights_in_few_bits_are_expected(changes, may_be):
    assert _may_be_quantised(nbft.Config().apply(changes)) is may_be


def test_a_model_that_is_quantised_already(tmp_path):
    about = {"model_type": "llama", "quantization_config": {"load_in_4bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    (tmp_path / "model.safetensors").touch()
    assert _may_be_quantised(nbft.Config(model={"model_name": str(tmp_path)}))
