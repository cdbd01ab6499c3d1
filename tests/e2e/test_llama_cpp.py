"""GGUF files that llama.cpp reads back and quantises, through programs with its interfaces."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import nbft
from nbft.errors import ConfigError, RunError
from nbft.export import llama_cpp
from nbft.export.exporting import foresee

PROGRAMS = Path(__file__).with_name("llama_programs.py")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that puts llama.cpp's programs on the PATH; without it none is there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(llama_cpp, "find_spec", lambda _: None)

    def install(*names: str, fault: str = "") -> None:
        for name in names:
            program = folder / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{PROGRAMS}" {name} "$@"\n')
            program.chmod(0o755)
        monkeypatch.setenv("LLAMA_FAULT", fault)

    return install


@pytest.fixture
def run(train: Callable[..., nbft.Run]) -> nbft.Run:
    """A run that has changed the answers of its model."""
    settings = {"learning_rate": 2e-2, "per_device_train_batch_size": 36, "max_steps": 10}
    return train(**{f"training__{name}": value for name, value in settings.items()})


@pytest.mark.parametrize("to", ["gguf", "ollama"])
def test_llama_cpp_reads_it_back(
    run: nbft.Run, tmp_path: Path, installed: Callable[..., None], to: str
) -> None:
    installed("llama-server")
    stages: list[str] = []
    exported = run.export(to, tmp_path / "out", dtype="bf16", say=stages.append)
    proof = exported.proof
    assert proof["passed"], proof["failures"]
    assert proof["llama_cpp"] == "llama.cpp b9999-fake"
    assert proof["llama_token_ids"]
    assert proof["llama_first_choices"] == 1
    assert proof["llama_answers"] == proof["cases"]
    assert "llama.cpp b9999-fake: same token ids" in proof.sentence
    card = (exported.path / "README.md").read_text()
    assert "| also read by | llama.cpp b9999-fake |" in card
    assert stages[-1] == f"Asking llama.cpp, {proof['cases']} of {proof['cases']} …"


def test_without_llama_cpp_the_proof_says_who_has_read_it(
    run: nbft.Run,
    tmp_path: Path,
    installed: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    capfd.readouterr()
    exported = run.export("gguf", tmp_path / "out")
    assert "GGUF tensors" not in capfd.readouterr().err  # the bar of transformers' reader
    assert exported.proof["passed"], exported.proof["failures"]
    assert exported.proof["llama_cpp"] is None
    why = "neither llama-server nor the package xllamacpp is installed here"
    assert exported.proof.sentence.endswith(f"llama.cpp itself has not read it: {why}.")
    assert f"| read by llama.cpp itself | no: {why} |" in (exported.path / "README.md").read_text()
    merged = run.export("merged", tmp_path / "merged")
    assert "llama" not in merged.proof.sentence


FAULTS = {
    "cannot load": "llama.cpp does not load it (error loading model: unknown pre-tokenizer type",
    "cannot render": "llama.cpp does not render its chat template (unknown filter).",
    "another template": "llama.cpp's tokenizer gives other token ids.",
    "other answers": "otherwise than transformers.",
    "no end": "llama.cpp does not stop at the end of its turn.",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_llama_cpp_makes_of_it_fails_the_proof(
    run: nbft.Run, tmp_path: Path, installed: Callable[..., None], fault: str
) -> None:
    installed("llama-server", fault=fault)
    with pytest.warns(UserWarning, match="The proof failed"):
        exported = run.export("gguf", tmp_path / "out")
    assert any(FAULTS[fault] in why for why in exported.proof["failures"])
    assert json.loads((exported.path / "proof.json").read_text())["passed"] is False


def test_a_llama_cpp_that_does_not_start_is_not_the_exports_fault(
    run: nbft.Run, tmp_path: Path, installed: Callable[..., None]
) -> None:
    installed("llama-server", fault="cannot start")
    proof = run.export("gguf", tmp_path / "out").proof
    assert proof["passed"], proof["failures"]
    assert "it could not be asked: ggml_cuda_init: no CUDA-capable device" in proof.sentence


def test_the_quantiser_of_llama_cpp_writes_the_k_types(
    run: nbft.Run, tmp_path: Path, installed: Callable[..., None]
) -> None:
    installed("llama-quantize")
    stages: list[str] = []
    exported = run.export("gguf", tmp_path / "out", dtype="Q4_K_M", say=stages.append)
    assert exported.proof["passed"], exported.proof["failures"]
    assert exported.proof["dtype"] == "q4_k_m"
    assert any(one.startswith("Quantising to q4_k_m with llama-quantize") for one in stages)
    assert sorted(one.name for one in exported.path.iterdir()) == [
        "README.md",
        "model.gguf",
        "proof.json",
    ]
    foreseen = foresee(run, "gguf", tmp_path / "out", parameters=1_000_000, dtype="q6_k")
    assert {"q4_k_m", "q6_k", "q8_0"} <= foreseen.needed_bytes.keys()
    assert foreseen.problem == ""


def test_a_tensor_that_the_quantiser_has_changed_fails_the_proof(
    run: nbft.Run, tmp_path: Path, installed: Callable[..., None]
) -> None:
    installed("llama-quantize", fault="another tensor")
    with pytest.warns(UserWarning, match="The proof failed"):
        proof = run.export("gguf", tmp_path / "out", dtype="q4_k_m").proof
    assert any("logits of the export differ" in why for why in proof["failures"])


def test_a_k_type_without_the_quantiser_is_refused_in_a_sentence(
    run: nbft.Run, tmp_path: Path, installed: Callable[..., None]
) -> None:
    with pytest.raises(ConfigError) as caught:
        run.export("gguf", tmp_path / "out", dtype="q4_k_m")
    assert str(caught.value) == (
        "dtype='q4_k_m': is written by llama.cpp's llama-quantize, which is not on the PATH. "
        "Install llama.cpp (brew install llama.cpp, winget install llama.cpp, or its release page on "
        "GitHub), or use q4_1, which needs no other program."
    )
    problem = foresee(run, "gguf", tmp_path / "out", parameters=1_000, dtype="q6_k").problem
    assert problem.endswith("or use q8_0, which needs no other program.")
    with pytest.raises(ConfigError, match="is none of the number types of merged"):
        run.export("merged", tmp_path / "out", dtype="q4_k_m")
    assert not (tmp_path / "out").exists()


def test_a_quantiser_that_fails_or_is_stopped_leaves_nothing(
    run: nbft.Run, tmp_path: Path, installed: Callable[..., None]
) -> None:
    place = tmp_path / "place"
    installed("llama-quantize", fault="cannot quantise")
    why = r"llama-quantize could not write q6_k \(error: failed to quantize model: unsupported"
    with pytest.raises(RunError, match=why):
        run.export("gguf", place / "out", dtype="q6_k")
    assert list(place.iterdir()) == []

    class StoppedError(Exception):
        pass

    def stop(stage: str) -> None:
        if "Quantising" in stage and "1 of 9" in stage:
            raise StoppedError

    installed("llama-quantize", fault="slow")
    began = time.monotonic()
    with pytest.raises(StoppedError):
        run.export("gguf", place / "out", dtype="q6_k", say=stop)
    assert time.monotonic() - began < 50
    assert list(place.iterdir()) == []


def test_the_reader_ends_with_whoever_asked(tmp_path: Path) -> None:
    """Where nbft is killed, its end of the pipe is closed, and the server must not stay."""
    import subprocess

    program = tmp_path / "llama-server"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "import time; time.sleep(60)"\n')
    program.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "nbft.export.llama_cpp", "model.gguf", "1", "256"],
        stdin=subprocess.PIPE,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    time.sleep(1)
    assert process.poll() is None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) != 0
