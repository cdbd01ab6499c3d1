"""A key never ends a file: what cannot be taken is a verdict on that key, and says what to do."""

import json

import pytest

import nbft
from nbft import hardware
from nbft.errors import ConfigError
from nbft.hardware import Choice
from nbft.interop import conversions
from nbft.interop.importer import import_file
from nbft.interop.report import DROPPED, Line, Report

BASE = {
    "axolotl": "base_model: a/b\nadapter: lora\n",
    "llama_factory": "model_name_or_path: a/b\n",
    "oumi": "model: {model_name: a/b}\n",
    "erniekit": "model_name_or_path: a/b\nfine_tuning: LoRA\n",
    "peft_studio": "base_model: a/b\n",
    "qefficient": "model: {model_name: a/b}\n",
}


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(hardware, "available_devices", lambda: {"cpu": "CPU"})
    monkeypatch.setattr(conversions, "is_installed", lambda name: False)


@pytest.fixture
def imported(on_cpu, tmp_path):
    def importing(system, text, strict=False):
        path = tmp_path / "config.yaml"
        path.write_text(BASE[system] + text, encoding="utf-8")
        return import_file(path, system, strict=strict)

    return importing


def line(report, key):
    return next(one for one in report if one.key == key)


VERDICTS = [
    # What only speeds up, shards or logs is left out on a machine that cannot do it.
    ("axolotl", "tf32: true", "tf32", "ignored", "needs an NVIDIA GPU"),
    ("axolotl", "flash_attention: true", "flash_attention", "ignored", "sdpa computes the same"),
    ("axolotl", "liger_rms_norm: true", "liger_rms_norm", "ignored", "the results are the same"),
    (
        *("axolotl", "attn_implementation: flash_attention_3", "attn_implementation"),
        *("ignored", "sdpa computes the same"),
    ),
    ("axolotl", "deepspeed: some/zero3.json", "deepspeed", "ignored", "nothing to shard"),
    (
        *("axolotl", "deepspeed: {zero_optimization: {stage: 3}}", "deepspeed"),
        *("converted", "num_processes above 1"),
    ),
    ("axolotl", "deepspeed:", "deepspeed", "taken", "off"),
    ("axolotl", "fsdp: [full_shard, auto_wrap]", "fsdp", "converted", "num_processes above 1"),
    (
        "axolotl",
        "fsdp: [auto_wrap, offload, full_shard]",
        "fsdp",
        "converted",
        "auto_wrap, offload",
    ),
    ("axolotl", "fsdp_config: {version: 2}", "fsdp_config", "ignored", "nothing to shard"),
    (
        *("axolotl", "plugins: [axolotl.integrations.liger.LigerPlugin]", "plugins"),
        *("ignored", "kernels"),
    ),
    ("axolotl", "use_comet: true", "use_comet", "ignored", "comet_ml is not installed here"),
    ("llama_factory", "flash_attn: fa2", "flash_attn", "ignored", "sdpa computes the same"),
    ("llama_factory", "enable_liger_kernel: true", "enable_liger_kernel", "ignored", "GPU"),
    ("llama_factory", "deepspeed: zero3.json", "deepspeed", "ignored", "no such file"),
    (
        "llama_factory",
        "report_to: [wandb, swanlab]",
        "report_to",
        "ignored",
        "every run has its own",
    ),
    ("llama_factory", "report_to: none", "report_to", "taken", "none"),
    (
        "oumi",
        "fsdp: {enable_fsdp: true, cpu_offload: true}",
        "fsdp.cpu_offload",
        "renamed",
        "",
    ),
    ("oumi", "deepspeed: {enable_deepspeed: false}", "deepspeed", "taken", "off"),
    (
        *("oumi", "deepspeed: {enable_deepspeed: true, precision: bf16}", "deepspeed"),
        *("converted", "precision is left out"),
    ),
    ("oumi", "training: {enable_wandb: true}", "training.enable_wandb", "ignored", "wandb"),
    (
        *("peft_studio", "experiment_tracker: cometml", "experiment_tracker"),
        *("ignored", "comet_ml is not installed here"),
    ),
    ("erniekit", "pp_seg_method: [0, 8]", "pp_seg_method", "ignored", "nbft has no stages"),
    # What trains otherwise is said to differ.
    ("axolotl", "optimizer: adamw_torch_8bit", "optimizer", "deviates", "needs bitsandbytes"),
    ("axolotl", "optimizer: adamw_torch_4bit", "optimizer", "deviates", "needs bitsandbytes"),
    ("llama_factory", "template: made_up", "template", "deviates", "the tokenizer's own"),
    ("axolotl", "chat_template: made_up", "chat_template", "deviates", "the tokenizer's own"),
    ("llama_factory", "pissa_init: true\npissa_iter: 8", "pissa_init", "deviates", "8 steps"),
    # What cannot be taken is said to be, and the rest of the file is read.
    ("axolotl", "optimizer: muon", "optimizer", "impossible", "no optimiser muon"),
    ("axolotl", "lr_scheduler: rex", "lr_scheduler", "impossible", "nbft's default is kept"),
    ("axolotl", "plugins: [a.b.KDPlugin]", "plugins", "impossible", "KDPlugin"),
    ("llama_factory", "use_galore: true", "use_galore", "impossible", ""),
    ("erniekit", "max_seq_len: soon", "max_seq_len", "impossible", "nbft's default is kept"),
    ("peft_studio", "rank: 128", "rank", "impossible", "must be 4 to 64"),
    (
        "qefficient",
        "training: {epochs: 1, x: 2}",
        "training.x",
        "unknown",
        "does not know this key",
    ),
    # What is not known is not known to nbft: nothing is said about the other system.
    (
        "axolotl",
        "lora_rr: 3",
        "lora_rr",
        "unknown",
        "nbft does not know this key. Did you mean lora_r?",
    ),
    ("llama_factory", "brand_new: 3", "brand_new", "unknown", "nbft does not know this key"),
    ("oumi", "brand: {new: 3}", "brand.new", "unknown", "nbft does not know this key"),
]


@pytest.mark.parametrize(("system", "text", "key", "kind", "words"), VERDICTS, ids=str)
def test_a_key_never_ends_a_file(imported, system, text, key, kind, words):
    config, report = imported(system, text)
    said = line(report, key)
    assert said.kind == kind, said
    assert words in said.note
    assert config.model.model_name == "a/b"
    assert (said in report.dropped) == (kind in DROPPED)
    if kind in DROPPED:
        with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
            imported(system, text, strict=True)
    else:
        imported(system, text, strict=True)
    errors = {problem.field for problem in nbft.make_plan(config).errors}
    assert errors <= {"model.model_name", "data.train.datasets"}


def test_no_verdict_says_what_the_other_system_does_with_an_unknown_key(imported):
    for system in BASE:
        _, report = imported(system, "zzz_zzz: 3")
        assert line(report, "zzz_zzz").note == "nbft does not know this key"


def test_on_a_gpu_what_speeds_up_is_kept(imported, monkeypatch):
    monkeypatch.setattr(hardware, "available_devices", lambda: {"cuda": "GPU", "cpu": "CPU"})
    monkeypatch.setattr(hardware, "has_bfloat16", lambda device: Choice("yes", "of this test"))
    monkeypatch.setattr(conversions, "is_installed", lambda name: True)
    config, report = imported(
        "axolotl",
        "tf32: true\nflash_attention: true\nliger_rope: true\nuse_comet: true\n"
        "optimizer: adamw_torch_4bit",
    )
    assert config.optimizer.optim == "adamw_8bit"
    assert "4-bit moments there, 8-bit moments here" in line(report, "optimizer").note
    assert not report.of_kind("ignored")
    assert config.model.attn_implementation == "flash_attention_2"
    assert (config.precision.tf32, config.model.use_liger_kernel) == (True, True)
    assert config.tracking.report_to == ["comet_ml"]


def test_on_a_gpu_what_its_packages_do_is_left_out_without_them(imported, monkeypatch):
    monkeypatch.setattr(hardware, "available_devices", lambda: {"cuda": "GPU", "cpu": "CPU"})
    _, report = imported("axolotl", "flash_attention: true\nliger_rope: true\n")
    assert "needs the package flash-attn" in line(report, "flash_attention").note
    assert "needs the package liger-kernel" in line(report, "liger_rope").note


def test_nothing_is_evaluated_without_rows_for_it(imported):
    for text in ("val_set_size: 0\nevals_per_epoch: 4", "val_set_size: 0.0\neval_steps: 10"):
        config, report = imported("axolotl", text)
        assert config.evaluation.eval_strategy == "no"
        assert config.data.split_ratio == 1.0
        assert not report.dropped


def test_tokens_that_a_file_adds(imported):
    config, report = imported(
        "axolotl", "special_tokens: {pad_token: <pad>, eos_token: <end>, unk_token: <unk>}"
    )
    assert config.model.pad_token == "<pad>"
    assert config.model.tokenizer_kwargs == {"eos_token": "<end>", "unk_token": "<unk>"}
    assert not report.dropped


def test_a_text_of_target_modules_is_a_pattern(imported):
    config, _ = imported("axolotl", r"lora_target_modules: 'layers\.[01]\..*q_proj'")
    assert config.peft.target_modules == r"layers\.[01]\..*q_proj"
    config, _ = imported("axolotl", "lora_target_modules: [q_proj, k_proj]")
    assert config.peft.target_modules == ["q_proj", "k_proj"]


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("axolotl", "learning_rate: null\ndatasets:\nfsdp:\n"),
        ("llama_factory", "learning_rate: null\ndataset:\ndeepspeed:\n"),
        ("oumi", "training:\ndata: null\nfsdp:\n"),
        ("erniekit", "learning_rate: null\ntrain_dataset_path:\n"),
        ("qefficient", "training:\ndataset:\n"),
        ("peft_studio", "learning_rate: null\n"),
    ],
)
def test_sections_and_keys_that_are_null_are_not_set(imported, system, text):
    config, report = imported(system, text)
    assert not report.dropped
    assert config.diff(imported(system, "")[0]) == {}


def test_the_peft_section_of_oumi_may_be_empty(imported):
    config, report = imported("oumi", "peft:\nfsdp: null\n")
    assert (line(report, "peft").kind, line(report, "fsdp").kind) == ("taken", "taken")
    assert config.peft.method == "full"


def test_variables_are_filled_in(imported, monkeypatch):
    monkeypatch.setenv("NBFT_TEST_RATE", "3e-4")
    monkeypatch.delenv("NBFT_TEST_NONE", raising=False)
    config, report = imported(
        "oumi",
        "training:\n  learning_rate: ${oc.env:NBFT_TEST_RATE}\n"
        "  output_dir: out/${oc.env:NBFT_TEST_NONE,here}/x\n"
        "  run_name: ${training.output_dir}\n"
        "  max_steps: ${oc.env:NBFT_TEST_NONE}\n",
    )
    assert config.training.learning_rate == 3e-4
    assert config.training.output_dir == "out/here/x"
    assert config.training.run_name == "out/here/x"
    assert config.training.max_steps == nbft.Config().training.max_steps
    assert "NBFT_TEST_RATE of the environment" in line(report, "training.learning_rate").note
    assert "not set, so its default" in line(report, "training.output_dir").note
    (dropped,) = report.dropped
    assert dropped.note.startswith("the environment variable NBFT_TEST_NONE is not set.")


def test_references_in_a_circle_and_secrets_are_not_filled_in(imported, monkeypatch):
    monkeypatch.setenv("NBFT_TEST_TOKEN", "of-somebody")
    config, report = imported(
        "oumi",
        "training:\n  run_name: ${training.output_dir}\n  output_dir: ${training.run_name}\n"
        "  logging_dir: ${oc.env:NBFT_TEST_TOKEN}\n",
    )
    assert len(report.dropped) == 3
    assert "of-somebody" not in str(report) + config.to_yaml()
    assert "would copy the secret NBFT_TEST_TOKEN" in line(report, "training.logging_dir").note


def test_names_and_blocks_under_one_list(imported):
    config, report = imported("axolotl", "datasets: [a/b, {path: c/d, type: alpaca}, e/f]")
    names = [dataset.dataset_name for dataset in config.data.train.datasets]
    assert names == ["a/b", "c/d", "e/f"]
    config, _ = imported("oumi", "data: {train: {datasets: [{dataset_name: a/b}, c/d]}}")
    assert [dataset.dataset_name for dataset in config.data.train.datasets] == ["a/b", "c/d"]
    assert not report.dropped


def test_layer_decay_of_erniekit_yields_to_its_lora_plus(imported):
    config, report = imported("erniekit", "layerwise_lr_decay_bound: 0.5\nlora_plus_scale: 4")
    errors = {problem.field for problem in nbft.make_plan(config).errors}
    assert errors <= {"model.model_name", "data.train.datasets"}
    kinds = {one.key: one.kind for one in report}
    assert kinds["layerwise_lr_decay_bound"] == "impossible"
    assert config.peft.loraplus_lr_ratio == 4


# LLaMA-Factory


def write_rows(folder):
    folder.mkdir(parents=True)
    about = {"mine": {"file_name": "mine.json"}}
    (folder / "dataset_info.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "mine.json").write_text("[]", encoding="utf-8")


FACTORY = "model_name_or_path: a/b\ndataset: mine\ndataset_dir: data\n"


def test_the_folder_of_rows_is_beside_a_folder_of_the_file(tmp_path):
    write_rows(tmp_path / "data")
    path = tmp_path / "examples" / "train_lora" / "sft.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(FACTORY)
    config, report = import_file(path)
    assert config.data.train.datasets[0].path == str(tmp_path / "data" / "mine.json")
    assert line(report, "dataset_dir").note == f"found in {tmp_path / 'data'}"


def test_the_folder_of_rows_is_in_the_working_folder(tmp_path, monkeypatch):
    write_rows(tmp_path / "work" / "data")
    (tmp_path / "other").mkdir()
    path = tmp_path / "other" / "sft.yaml"
    path.write_text(FACTORY)
    monkeypatch.chdir(tmp_path / "work")
    config, report = import_file(path)
    assert config.data.train.datasets[0].path == str(tmp_path / "work" / "data" / "mine.json")
    assert str(tmp_path / "work" / "data") in line(report, "dataset_dir").note


def test_a_list_of_rows_that_is_not_there_or_not_json_is_said(tmp_path):
    path = tmp_path / "sft.yaml"
    path.write_text(FACTORY.replace("data\n", "no-such-folder\n"))
    _, report = import_file(path)
    assert "no-such-folder/dataset_info.json in" in line(report, "dataset_dir").note
    assert {one.key for one in report.dropped} == {"dataset", "dataset_dir"}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text("{")
    path.write_text(FACTORY)
    _, report = import_file(path)
    assert "dataset_info.json cannot be read" in line(report, "dataset_dir").note


@pytest.mark.parametrize(
    ("keys", "patterns"),
    [
        ("", [r"\.{-2}\.", r"\.{-1}\."]),
        ("freeze_trainable_layers: 1", [r"\.{-1}\."]),
        ("freeze_trainable_layers: -2", [r"\.0\.", r"\.1\."]),
        (
            "freeze_trainable_layers: 1\nfreeze_trainable_modules: mlp,self_attn",
            [r"\.{-1}\.mlp", r"\.{-1}\.self_attn"],
        ),
        (
            "freeze_trainable_layers: 1\nfreeze_extra_modules: lm_head",
            [r"\.{-1}\.", "lm_head"],
        ),
    ],
)
def test_freeze_trains_the_named_layers_only(imported, keys, patterns):
    config, report = imported("llama_factory", f"finetuning_type: freeze\n{keys}\n")
    assert config.peft.method == "full"
    assert config.model.unfrozen_parameters == patterns
    assert not report.dropped
    assert "freezes the rest" in line(report, "finetuning_type").note


def test_freeze_without_a_layer_is_never_full_training(imported):
    with pytest.raises(ConfigError, match="trains no layer"):
        imported("llama_factory", "finetuning_type: freeze\nfreeze_trainable_layers: 0\n")


def test_oft_is_the_one_of_peft(imported):
    config, report = imported(
        "llama_factory",
        "finetuning_type: oft\noft_block_size: 16\noft_target: q_proj,v_proj\nlora_rank: 4\n",
    )
    assert (config.peft.method, config.peft.oft_block_size) == ("oft", 16)
    assert config.peft.target_modules == ["q_proj", "v_proj"]
    assert not report.dropped


# The report


def test_the_report_begins_with_what_differs(imported):
    _, report = imported(
        "axolotl",
        "lora_r: 8\nlearning_rate: 0.001\noptimizer: adamw_torch_8bit\nlr_scheduler: rex\ntf32: true\n",
    )
    text = str(report)
    titles = [title for title, _ in report.groups]
    assert titles[:2] == ["Differs from Axolotl", "Could not be taken"]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    for title, lines in report.groups:
        assert f"{title} ({len(lines)})" in text
        assert title in report._repr_html_()
    assert sum(len(lines) for _, lines in report.groups) == len(report)


def test_what_was_dropped_is_counted():
    lines = [
        Line("a", 1, kind) for kind in ("taken", "impossible", "unknown", "ignored", "deviates")
    ]
    report = Report("oumi", "Oumi", "a.yaml", lines)
    assert [one.kind for one in report.dropped] == ["impossible", "unknown"]
    assert report.to_dict()["dropped"] == ["a", "a"]


def test_a_file_that_could_be_ours_is_theirs_when_it_is_imported(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text(
        "model: {model_name: a/b}\n"
        "data: {train: {datasets: [{dataset_name: yahma/alpaca-cleaned}]}}\n"
        "training: {max_steps: 10}\npeft:\n"
    )
    config, report = import_file(file)
    assert report.system == "oumi"
    assert not config.data.completion_only_loss
    assert "nbft train reads it as its own config" in report.remarks[0]
    file.write_text("model: {model_name: a/b}\ndata: {path: rows.jsonl}\n")
    assert import_file(file)[1].system == "nbft"


@pytest.mark.parametrize(
    ("system", "text", "said"),
    [
        ("axolotl", "datasets: 5", "is not a list of blocks"),
        ("axolotl", "datasets: [7]", "is not a list of blocks"),
        ("axolotl", "datasets: [{path: {a: 1}}]", "is not text"),
        ("axolotl", "datasets: [{path: rows.jsonl}, {path: [a]}]", "is not text"),
        ("oumi", "data: {train: {datasets: 5}}", "is not a list of blocks"),
        ("oumi", "data: {train: {datasets: [7]}}", "is not a list of blocks"),
    ],
)
def test_rows_that_nobody_could_find_are_said(imported, system, text, said):
    _, report = imported(system, text)
    assert any(said in line.note for line in report.dropped)
    with pytest.raises(ConfigError, match=said):
        imported(system, text, strict=True)


def test_ranks_and_numbers_of_layers_are_taken_from_axolotl(imported):
    config, report = imported(
        "axolotl",
        "base_model: a/b\nadapter: lora\nlora_rank_pattern: {q_proj: 4}\n"
        "lora_alpha_pattern: {q_proj: 8}\npeft_layers_to_transform: [0, 1]\n"
        "peft_layers_pattern: layers\npeft_init_lora_weights: eva\n",
    )
    assert config.peft.rank_pattern == {"q_proj": 4}
    assert config.peft.alpha_pattern == {"q_proj": 8.0}
    assert config.peft.layers_to_transform == [0, 1]
    assert config.peft.init_lora_weights == "eva"
    assert not report.dropped


def test_layers_without_an_adapter_are_frozen(imported):
    config, report = imported(
        "oumi", "training: {use_peft: true}\npeft: {lora_exclude_modules: [lm_head, layers.0]}\n"
    )
    assert config.model.freeze_layers == ["lm_head", "layers.0"]
    assert not report.dropped
