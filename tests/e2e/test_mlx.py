"""Exports that mlx_lm converts and reads back, by the CPU."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nbft
from nbft.errors import ConfigError, RunError
from nbft.export import mlx
from nbft.export.exporting import foresee
from nbft.export.programs import run_program

KINDS: dict[str, dict[str, Any]] = {
    "DoRA": {"peft__use_dora": True},
    "4 bits": {"quantization__load_in_4bit": True},
    "head apart": {"peft__modules_to_save": ["lm_head"]},
}


Tensors = dict[str, torch.Tensor]


def change_what_is_written(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensors], Tensors]
) -> None:
    """Let the weights of each export be changed before they are read back."""

    class Changed(mlx.Mlx):
        def write(self, trained: Any, folder: Path, *given: Any) -> None:
            super().write(trained, folder, *given)
            file = folder / "model.safetensors"
            save_file(change(load_file(file)), file, {"format": "mlx"})

    monkeypatch.setattr(mlx, "FORMAT", Changed())


@pytest.mark.parametrize("name", KINDS)
def test_read_back_and_proven(trained: Callable[..., nbft.Run], tmp_path: Path, name: str) -> None:
    stages: list[str] = []
    exported = trained(**KINDS[name]).export(
        "mlx", tmp_path / "out", dtype="f32", say=stages.append
    )
    proof = exported.proof
    assert proof["passed"], proof["failures"]
    assert proof["same_token_ids"]
    assert proof["same_answers"]
    assert proof["same_first_choices"] == 1
    assert proof["read_by"].startswith("mlx_lm ")
    assert "Converting to float32 with mlx_lm …" in stages
    assert stages[-1] == "Reading it back with mlx_lm …"
    assert not [file.name for file in exported.path.iterdir() if file.is_dir()]
    assert exported.commands[0].startswith(f'mlx_lm.chat --model "{exported.path}"')


@pytest.mark.parametrize("dtype", ["float16", "8bit", "4bit"])
def test_every_number_type(trained: Callable[..., nbft.Run], tmp_path: Path, dtype: str) -> None:
    exported = trained(training__learning_rate=5e-2).export("mlx", tmp_path / "out", dtype=dtype)
    assert exported.proof["passed"], exported.proof["failures"]
    about = json.loads((exported.path / "config.json").read_text())
    assert about.get("quantization", {}).get("bits") == (mlx._bits(dtype) or None)


def test_a_changed_export_fails_its_proof(
    trained: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(tensors: Tensors) -> Tensors:
        name = next(name for name in tensors if name.endswith("down_proj.scales"))
        return tensors | {name: -tensors[name]}

    change_what_is_written(monkeypatch, tampered)
    with pytest.warns(UserWarning, match="The proof failed"):
        proof = trained().export("mlx", tmp_path / "out", dtype="8bit").proof
    assert any("logits of the export differ" in why for why in proof["failures"])


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_numbers_are_unpacked_as_mlx_does(bits: int) -> None:
    core = importlib.import_module("mlx.core")
    numpy = importlib.import_module("numpy")
    weights = core.array(numpy.random.default_rng(0).normal(size=(5, 128)).astype("float32"))
    packed = core.quantize(weights, 64, bits)
    ours = mlx.unpacked(*(torch.from_numpy(numpy.array(one)) for one in packed), bits)
    theirs = torch.from_numpy(numpy.array(core.dequantize(*packed, 64, bits)))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_without_mlx_lm_it_is_refused_with_what_to_install(
    train: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(training__max_steps=1)
    monkeypatch.setattr(mlx, "find_spec", lambda _: None)
    with pytest.raises(RunError) as caught:
        run.export("mlx", tmp_path / "out")
    assert str(caught.value) == (
        f"{run.id}: cannot be exported to mlx. mlx_lm, which writes it, is not installed. Install it "
        '(pip install mlx-lm; on Linux: pip install mlx-lm "mlx[cpu]"), or use to="merged".'
    )
    assert foresee(run, "mlx", tmp_path / "out", parameters=1000).problem == str(caught.value)
    with pytest.raises(ConfigError, match="bfloat16, float16, float32, 8bit, 6bit, 4bit"):
        run.export("mlx", tmp_path / "out", dtype="q8_0")


def test_a_model_that_mlx_lm_does_not_know_leaves_nothing(
    train: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(training__max_steps=1)

    def unknown(command: Any, doing: Any, say: Any, environment: Any) -> str:
        if "--hf-path" in command:
            about = Path(command[command.index("--hf-path") + 1]) / "config.json"
            about.write_text(about.read_text().replace('"llama"', '"elephant"'))
        return run_program(command, doing, say, environment)

    monkeypatch.setattr(mlx, "run_program", unknown)
    place = tmp_path / "place"
    with pytest.raises(
        RunError, match=r"the model \(ValueError: Model type elephant not supported\.\)"
    ):
        run.export("mlx", place / "out")
    assert list(place.iterdir()) == []


def test_an_mlx_lm_that_cannot_be_loaded_is_said_before_anything_is(
    train: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(training__max_steps=1)
    broken = tmp_path / "broken" / "mlx_lm"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libmlx.so: no such file')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    stages: list[str] = []
    with pytest.raises(RunError, match=r"cannot be loaded \(ImportError: libmlx\.so: no such"):
        run.export("mlx", tmp_path / "out", say=stages.append)
    assert stages == []


def test_weights_that_mlx_lm_has_rearranged_are_not_called_wrong(
    train: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rearranged(tensors: Tensors) -> Tensors:
        return {name.replace("down_proj", "experts"): one for name, one in tensors.items()}

    change_what_is_written(monkeypatch, rearranged)
    run, place = train(training__max_steps=1), tmp_path / "place"
    with pytest.raises(RunError, match=r"in another order \(model.layers.0.mlp.experts\)"):
        run.export("mlx", place / "out", dtype="4bit")
    assert list(place.iterdir()) == []


def test_it_stops_at_once_on_request(train: Callable[..., nbft.Run], tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(stage: str) -> None:
        if "Converting" in stage:
            raise StoppedError

    place = tmp_path / "place"
    with pytest.raises(StoppedError):
        train(training__max_steps=1).export("mlx", place / "out", say=stop)
    assert list(place.iterdir()) == []
