"""Trained models written for other programs, read back, and proven; and proofs that fail."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nbft
from nbft import registry
from nbft.errors import ConfigError, RunError
from nbft.export.exporting import PROOF
from nbft.export.go_template import read_modelfile
from nbft.export.merged import Merged
from nbft.launchers.exporting import export_state, start_export, stop_export

KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "LoRA, bfloat16": {"model__dtype": "bfloat16"},
    "DoRA": {"peft__use_dora": True},
    "full": {"peft__method": "full"},
    "4 bits": {"quantization__load_in_4bit": True},
    "DoRA, 4 bits": {"quantization__load_in_4bit": True, "peft__use_dora": True},
    "head apart": {"peft__modules_to_save": ["lm_head"]},
    "adalora": {"peft__method": "adalora"},
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("to", "dtype"), [("merged", None), ("gguf", "bf16"), ("gguf", "q8_0")])
def test_read_back_and_proven(
    trained: Callable[..., nbft.Run], tmp_path: Path, name: str, to: str, dtype: str | None
) -> None:
    run = trained(**KINDS[name])
    exported = run.export(to, tmp_path / "out", dtype=dtype)
    proof = exported.proof
    assert proof["passed"], proof["failures"]
    assert proof["same_token_ids"]
    assert proof["stops_at_end_of_turn"]
    assert proof["cases"] >= 4
    assert proof["merge_difference"] <= proof["logit_tolerance"]
    assert proof["written_difference"] <= proof["logit_tolerance"]
    if to == "merged" and run.config.model.dtype == "float32":
        assert proof["same_answers"]
        assert proof["same_first_choices"] == 1
    assert json.loads((exported.path / PROOF).read_text())["passed"] is True
    assert "| passed | yes |" in (exported.path / "README.md").read_text()
    assert sorted(p.name for p in tmp_path.iterdir() if "partial" in p.name) == []


def test_a_model_trained_on_preferences(
    preference: Callable[..., nbft.Config], tmp_path: Path
) -> None:
    from nbft.launchers.kernel import join

    run = nbft.train(preference("dpo", peft__method="lora", training__max_steps=4), show=False)
    join(run)
    for to in ("merged", "gguf", "ollama"):
        proof = run.export(to, tmp_path / to).proof
        assert proof["passed"], proof["failures"]


@pytest.mark.parametrize("dtype", ["f16", "float32", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_every_number_type_of_gguf(
    trained: Callable[..., nbft.Run], tmp_path: Path, dtype: str
) -> None:
    from gguf import GGUFReader

    exported = trained(training__learning_rate=5e-2).export("gguf", tmp_path / "out", dtype=dtype)
    assert exported.proof["same_token_ids"]
    assert exported.proof["passed"], exported.proof["failures"]
    kinds = {str(t.tensor_type.name) for t in GGUFReader(exported.path / "model.gguf").tensors}
    short = {"f16": "F16", "float32": "F32"}.get(dtype, dtype.upper())
    assert kinds == {short, "F32"}  # vectors are always F32


@pytest.mark.parametrize("shape", ["qwen2", "qwen3", "mistral"])
def test_other_models_of_this_shape(
    trained: Callable[..., nbft.Run], tiny_model: Path, tmp_path: Path, shape: str
) -> None:
    import transformers

    about = transformers.AutoConfig.from_pretrained(tiny_model)
    kind = {"qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}[shape]
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "pad_token_id", "eos_token_id")
    same = {name: getattr(about, name) for name in names}
    own = getattr(transformers, f"{kind}Config")(
        **same,
        bos_token_id=None,
        head_dim={"mistral": 32, "qwen2": 16, "qwen3": 128}[shape],
        max_position_embeddings=512,
        tie_word_embeddings=False,
    )
    if shape == "mistral":
        own.sliding_window = None
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}ForCausalLM")(own)
    for name, p in model.named_parameters():
        if name.endswith("bias"):  # as trained ones, which are not 0
            torch.nn.init.normal_(p, std=0.5)
    folder = tmp_path / "base"
    shutil.copytree(tiny_model, folder)
    model.save_pretrained(folder)
    run = trained(model__model_name=str(folder))
    for dtype in ("float32", "q8_0"):
        proof = run.export("gguf", tmp_path / dtype, dtype=dtype).proof
        assert proof["passed"], proof["failures"]


def test_ollama_has_the_template_stops_and_the_model(
    trained: Callable[..., nbft.Run], tmp_path: Path
) -> None:
    run = trained()
    exported = run.export("ollama", tmp_path / "out", dtype="q8_0")
    assert exported.proof["passed"], exported.proof["failures"]
    said = read_modelfile((exported.path / "Modelfile").read_text())
    assert said["FROM"] == ["./model.gguf"]
    assert (exported.path / "model.gguf").is_file()
    assert 'stop "<|end|>"' in said["PARAMETER"]
    assert '{{ if eq .Role "user" }}<|start|>user\n{{ .Content }}<|end|>\n' in said["TEMPLATE"][0]
    assert f"ollama create {run.id.lower()} -f Modelfile" in exported.usage


@pytest.mark.parametrize(
    ("to", "command"),
    [("vllm", "vllm serve"), ("openai-server", "transformers serve"), ("adapter", "PeftModel")],
)
def test_servers_get_a_folder_and_the_command(
    trained: Callable[..., nbft.Run], tmp_path: Path, to: str, command: str
) -> None:
    run = trained()
    exported = run.export(to, tmp_path / "out")
    assert exported.proof["passed"], exported.proof["failures"]
    assert command.removeprefix("Peft") in exported.usage
    assert str(exported.path) in exported.usage
    assert exported.usage in (exported.path / "README.md").read_text()


def test_a_tampered_weight_fails_the_proof(
    trained: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tamper(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["model.layers.1.mlp.down_proj.weight"].neg_()
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    proof = _proof_of_tampered(trained(), tmp_path, monkeypatch, tamper)
    assert any("logits of the export differ" in why for why in proof["failures"])
    assert proof["same_token_ids"]


def test_an_adapter_that_was_left_out_fails_the_proof(
    trained: Callable[..., nbft.Run],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its effect is far below the tolerance of q8_0; what training has changed is lost all the same."""

    def tamper(folder: Path) -> None:
        shutil.copy(tiny_model / "model.safetensors", folder / "model.safetensors")

    run = trained(training__learning_rate=1e-3, model__dtype="bfloat16")
    proof = _proof_of_tampered(run, tmp_path, monkeypatch, tamper)
    assert any("what was trained is lost" in why for why in proof["failures"])


def test_another_template_fails_the_proof(
    trained: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tamper(folder: Path) -> None:
        file = folder / "chat_template.jinja"
        file.write_text(file.read_text().replace("\n", " "))

    proof = _proof_of_tampered(trained(), tmp_path, monkeypatch, tamper)
    assert not proof["same_token_ids"]


def test_another_end_fails_the_proof(
    trained: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tamper(folder: Path) -> None:
        for name, key in (("generation_config", "eos_token_id"), ("tokenizer_config", "eos_token")):
            file = folder / f"{name}.json"
            about = json.loads(file.read_text())
            about[key] = 1 if key == "eos_token_id" else "<|start|>"
            file.write_text(json.dumps(about))

    proof = _proof_of_tampered(trained(), tmp_path, monkeypatch, tamper)
    assert "It does not stop at the end of its turn." in proof["failures"]


def _proof_of_tampered(
    run: nbft.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tamper: Callable[[Path], None]
) -> Any:
    """Return the proof of an export that is changed before it is read back."""
    write = Merged.write

    def write_and_tamper(self: Any, trained: Any, folder: Path, *more: Any) -> None:
        write(self, trained, folder, *more)
        tamper(folder)

    monkeypatch.setattr(Merged, "write", write_and_tamper)
    with pytest.warns(UserWarning, match="The proof failed"):
        exported = run.export("merged", tmp_path / "out")
    assert not exported.proof["passed"]
    assert json.loads((exported.path / PROOF).read_text())["passed"] is False
    text = (exported.path / "README.md").read_text()
    assert "**The proof of this export failed" in text
    assert "| passed | no |" in text
    return exported.proof


def test_the_report_lists_the_exports(trained: Callable[..., nbft.Run], tmp_path: Path) -> None:
    run = trained()
    run.export("merged", tmp_path / "out")
    page = (run.path / "report.html").read_text()
    assert "<h2>Exports</h2>" in page
    assert "<td>merged</td>\n<td>out</td>\n<td>Reloaded by transformers" in page
    assert "same token ids" in page
    run.delete()
    assert not run.path.exists()


def test_an_earlier_export_is_replaced_and_nothing_else(
    trained: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained()
    monkeypatch.chdir(tmp_path)
    first = run.export("merged")
    assert first.path == tmp_path / f"{run.id}-merged"
    (first.path / "stale").write_text("")
    again = run.export("merged")
    assert again.path == first.path
    assert not (again.path / "stale").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RunError, match="is there already and no export of nbft"):
        run.export("merged", "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


ONNX = (
    r"^to='onnx': is not written: its exporter, optimum-onnx 0\.1\.0, needs transformers below "
    r"4\.58, and nbft needs transformers 5\. Use to=\"merged\", and in an environment of its own: "
)

MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no such format": ({"to": "ggfu"}, ConfigError, "to='ggfu': is not one of .* Use gguf."),
    "onnx": ({"to": "onnx"}, ConfigError, ONNX),
    "no such type": ({"to": "merged", "dtype": "q8_0"}, ConfigError, "dtype='q8_0': is none of"),
    "type of an adapter": ({"to": "adapter", "dtype": "f16"}, ConfigError, "does not apply"),
    "no repository": ({"to": "hub"}, RunError, "owner/name"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence_and_leaves_nothing(
    train: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    arguments, kind, sentence = MISTAKES[name]
    run = train(training__max_steps=1)
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    with pytest.raises(kind, match=sentence):
        run.export(**arguments)
    assert list(place.iterdir()) == []


def test_what_cannot_be_merged_is_named(train: Callable[..., nbft.Run], tmp_path: Path) -> None:
    run = train(peft__method="prompt_tuning", peft__num_virtual_tokens=4, training__max_steps=1)
    with pytest.raises(RunError, match="prompt tuning changes no weights of the model"):
        run.export("merged", tmp_path / "out")
    exported = run.export("adapter", tmp_path / "adapter")
    assert exported.proof["passed"], exported.proof["failures"]
    assert "use_cache = False" in exported.usage
    whole = train(peft__method="full", training__max_steps=1)
    with pytest.raises(RunError, match="has no adapter"):
        whole.export("adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_has_nothing_to_export(
    make_config: Callable[..., nbft.Config], tmp_path: Path
) -> None:
    run = nbft.Run.create(make_config())
    with pytest.raises(RunError, match="has no finished adapter to export; it is created"):
        run.export("merged", tmp_path / "out")


def test_a_full_disk_is_seen_before_anything_is_written(
    train: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(training__max_steps=1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20 * 3))
    with pytest.raises(RunError, match=r"the export needs about .* and 3.0 MiB are free"):
        run.export("merged", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_write_that_breaks_off_leaves_nothing(
    train: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, trained: Any, folder: Path, *_: Any) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Merged, "write", full)
    run = train(training__max_steps=1)
    place = tmp_path / "place"
    with pytest.raises(RunError, match="the disk is full"):
        run.export("merged", place / "out")
    assert list(place.iterdir()) == []


def test_a_model_that_llama_cpp_names_otherwise_is_refused(
    train: Callable[..., nbft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(training__max_steps=1)
    monkeypatch.setattr("nbft.export.gguf._ARCHITECTURES", {"qwen2": "qwen2"})
    with pytest.raises(RunError, match=r"not of llama\. Use to=.merged"):
        run.export("gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Hub:
    """Takes what is uploaded."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def create_repo(self, repo_id: str, **more: Any) -> None:
        self.calls.append(("create", {"repo_id": repo_id, **more}))

    def upload_folder(self, **more: Any) -> None:
        files = sorted(p.name for p in Path(more["folder_path"]).iterdir())
        card = (Path(more["folder_path"]) / "README.md").read_text()
        self.calls.append(("upload", {**more, "files": files, "card": card}))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: made)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_" + "a" * 34)
    return made


@pytest.mark.parametrize("adapter", [False, True])
def test_the_hub_gets_a_proven_folder_with_a_card(
    trained: Callable[..., nbft.Run], tmp_path: Path, hub: Hub, adapter: bool
) -> None:
    run = trained()
    exported = run.export(
        "hub", tmp_path / "out", repo_id="someone/corrector", adapter=adapter, yes=True
    )
    (_, created), (_, uploaded) = hub.calls
    assert created == {"repo_id": "someone/corrector", "private": True, "exist_ok": True}
    assert uploaded["repo_id"] == "someone/corrector"
    assert ("adapter_model.safetensors" in uploaded["files"]) is adapter
    assert "training_args.bin" not in uploaded["files"]
    card = uploaded["card"]
    assert card.startswith("---\nlibrary_name: ")
    assert '"nbft"' in card
    assert "| passed | yes |" in card
    assert "Training loss over" in card
    assert 'from_pretrained("someone/corrector"' in card
    assert str(tmp_path) not in card
    assert exported.proof["passed"]


def test_the_hub_asks_first(
    train: Callable[..., nbft.Run], tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(training__max_steps=1)
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")
    with pytest.raises(RunError, match="nothing was uploaded"):
        run.export("hub", tmp_path / "out", repo_id="someone/corrector")
    what = f"the merged model of {run.id} to huggingface.co/someone/corrector"
    assert asked == [f"Upload {what}, for you alone? [y/N] "]
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(RunError, match="yes=True"):
        run.export("hub", tmp_path / "out", repo_id="someone/corrector")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(RunError, match="hf auth login"):
        run.export("hub", tmp_path / "out", repo_id="someone/corrector", yes=True)
    assert hub.calls == []
    assert not (tmp_path / "out").exists()


def test_what_fails_its_proof_is_not_uploaded(
    trained: Callable[..., nbft.Run], tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbft.export.proof.TOLERANCES", dict.fromkeys(["float32"], 0.0))
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        exported = trained().export("hub", tmp_path / "out", repo_id="a/b", yes=True, dtype="f32")
    assert not exported.proof["passed"]
    assert hub.calls == []


def test_the_hub_that_refuses_leaves_the_folder(
    trained: Callable[..., nbft.Run], tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("403 Forbidden")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(RunError, match=r"a/b: cannot be uploaded \(ValueError: 403 Forbidden\)"):
        trained().export("hub", tmp_path / "out", repo_id="a/b", yes=True)
    assert (tmp_path / "out" / PROOF).is_file()


def test_a_format_of_ones_own(trained: Callable[..., nbft.Run], tmp_path: Path) -> None:
    class Mine(Merged):
        title = "my own"

        def usage(self, folder: Any, trained: Any) -> str:
            return "By hand."

    registry.exports.register("mine")(Mine())
    try:
        assert trained().export("mine", tmp_path / "out").usage == "By hand."
    finally:
        registry.exports.unregister("mine")


def test_an_export_in_a_process_says_its_stages_and_leaves_nothing_when_it_is_stopped(
    trained: Callable[..., nbft.Run], tmp_path: Path
) -> None:
    run = trained()
    before = {entry.name for entry in tmp_path.iterdir()}
    start_export(run, "merged", tmp_path / "out", dtype="float32", yes=True)
    stages: list[str] = []
    while (state := export_state(run)) is not None and state.is_going:
        if state.text not in (*stages, "Starting …"):
            stages.append(state.text)
            if len(stages) == 2:  # the model is loaded, and asked
                stop_export(run)
        time.sleep(0.02)
    assert state is not None
    assert stages[0] == "Loading the trained model …"
    assert state.text == "The export was stopped. Nothing of it is left."
    assert {entry.name for entry in tmp_path.iterdir()} == before
    assert run.exports == []
    assert (run.path / "export.log").is_file()
