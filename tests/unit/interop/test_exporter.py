"""A config as another system's file says the same when it is read again, or says what it cannot."""

import json

import pytest
import yaml

import nbft
from nbft import hardware
from nbft.errors import ConfigError
from nbft.interop.chat_formats import chat_template
from nbft.interop.conversions import for_any_machine
from nbft.interop.exporter import FORMATS
from nbft.interop.importer import import_file

COMMON = {
    "model": {"model_name": "owner/model"},
    "data": {"path": "rows.jsonl", "max_length": 300},
    "peft": {"r": 32, "lora_alpha": 64},
    "training": {
        "learning_rate": 3e-5,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 8,
        "output_dir": "here",
    },
    "scheduler": {"lr_scheduler_type": "linear", "warmup_steps": 30},
    "precision": {"mixed_precision": "bf16"},
}
OWN = {
    "qefficient": {
        "model": {"attn_implementation": "eager", "use_cache": True},
        "data": {
            "path": "rows.jsonl",
            "prompt_template": "Q: {question}\n\nA:\n",
            "completion_template": "{answer}",
            "split_ratio": 0.75,
            "train_sampling_strategy": "group_by_length",
        },
        "peft": {"target_modules": ["q_proj"], "lora_dropout": 0.05, "bias": "all"},
        "optimizer": {"optim": "sgd", "weight_decay": 0.1},
        "evaluation": {"eval_strategy": "steps", "eval_steps": 7},
        "callbacks": {"early_stopping_patience": 4, "early_stopping_threshold": 0.5},
        "memory": {"gradient_checkpointing": True},
        "distributed": {"ddp_backend": "gloo", "ddp_timeout": 99},
        "tracking": {"report_to": ["tensorboard"]},
    },
    "oumi": {
        "model": {"dtype": "float32", "freeze_layers": ["embed"], "pad_token": "<pad>"},
        "data": {
            "train": {
                "datasets": [
                    {"dataset_name": "a/b", "mixture_proportion": 0.25, "sample_count": 9},
                    {"dataset_name": "c/d", "mixture_proportion": 0.75, "subset": "en"},
                ],
                "mixture_strategy": "all_exhausted",
            },
            "validation": {"datasets": [{"dataset_name": "a/b", "split": "test"}]},
            "packing": True,
            "packing_strategy": "wrapped",
        },
        "peft": {"modules_to_save": ["lm_head"], "init_lora_weights": "pissa"},
        "quantization": {
            "load_in_4bit": True,
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "float32",
        },
        "optimizer": {"optim": "adafactor", "adam_beta2": 0.95},
        "checkpoint": {"save_steps": 20, "save_final_model": False},
        "memory": {"gradient_checkpointing": True, "torch_empty_cache_steps": 5},
        "distributed": {"fsdp": "hybrid_shard", "ddp_timeout": 120},
        "logging": {"include_performance_metrics": True, "log_level": "debug"},
        "tracking": {"report_to": ["wandb"]},
    },
    "erniekit": {
        "model": {"hidden_dropout": 0.1, "dropout_warmup_steps": 5},
        "data": {
            "train": {
                "datasets": [
                    {"path": "a.jsonl", "dataset_type": "erniekit", "mixture_proportion": 0.25},
                    {"path": "b.jsonl", "dataset_type": "messages", "mixture_proportion": 0.75},
                ]
            },
            "packing": True,
            "packing_strategy": "greedy",
        },
        "peft": {"use_rslora": True, "loraplus_lr_ratio": 4},
        "optimizer": {"moment_dtype": "bfloat16"},
        "precision": {"fp16_opt_level": "O2", "amp_master_grad": True},
        "checkpoint": {"save_strategy": "no", "ignore_load_lr_and_optim": True},
        "evaluation": {"eval_strategy": "steps", "eval_steps": 5},
        "distributed": {"tensor_parallel_size": 2, "tensor_parallel_config": ["sync_grad"]},
        "logging": {"logging_dir": "logs"},
    },
    "peft_studio": {
        "peft": {"use_dora": True, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1},
        "data": {"path": "rows.jsonl", "split_ratio": 0.85},
        "callbacks": {"early_stopping_patience": 3, "early_stopping_threshold": 0.01},
        "memory": {"gradient_checkpointing": True},
        "tracking": {"report_to": ["comet_ml"], "project": "mine", "tags": ["a", "b"]},
    },
}


def config_for(name):
    tree = {section: dict(block) for section, block in COMMON.items()}
    for section, block in OWN[name].items():
        own = dict(block)
        shared = tree.get(section, {})
        if "train" in own or "path" in own:
            shared = {k: v for k, v in shared.items() if k != "path"}
        tree[section] = shared | own
    return nbft.Config(**tree)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_says_the_same_when_it_is_read(name, tmp_path):
    config = config_for(name)
    text = config.export(name)
    assert text.left_out == {}
    path = tmp_path / f"config.{FORMATS[name]}"
    path.write_text(text, encoding="utf-8")
    with for_any_machine():  # some of its trackers may not be installed on this one
        again, report = import_file(path)
    assert report.system == name
    assert not report.of_kind("unknown", "impossible")
    differing = {
        k for k in again.diff(config) if not k.endswith(("dataset_type", "optim", "eval_steps"))
    }
    assert differing == set()


@pytest.mark.parametrize("name", FORMATS)
def test_what_cannot_be_said_there_is_named(name):
    config = config_for(name).apply(
        {
            "training.neftune_noise_alpha": 5.0,
            "evaluation.sample_count": 9,
            "model.model_revision": "x",
        }
    )
    text = config.export(name)
    expected = {
        "training.neftune_noise_alpha": 5.0,
        "evaluation.sample_count": 9,
        "model.model_revision": "x",
    }
    if name == "oumi":
        del expected["training.neftune_noise_alpha"], expected["model.model_revision"]
    assert text.left_out == expected
    if FORMATS[name] == "yaml":
        assert "# Not supported by this format: evaluation.sample_count=9" in text


@pytest.mark.parametrize("preset", nbft.presets())
@pytest.mark.parametrize("name", FORMATS)
def test_every_preset_can_be_written(name, preset, tmp_path):
    text = nbft.Config.preset(preset).export(name)
    path = tmp_path / f"config.{FORMATS[name]}"
    path.write_text(text, encoding="utf-8")
    _, report = import_file(path, name)
    assert not report.of_kind("unknown")


@pytest.mark.parametrize("name", ["qefficient", "oumi", "erniekit"])
def test_their_loader_reads_the_numbers(name):
    """Theirs read YAML 1.1, where 5e-05 is text and no is false."""
    tree = yaml.safe_load(nbft.Config(**COMMON, evaluation={"eval_strategy": "no"}).export(name))
    flat = json.dumps(tree)
    assert '"3e-05"' not in flat
    assert "3e-05" in flat


IN_BF16 = {"precision": {"mixed_precision": "bf16"}}  # Oumi has no auto


def _again(config, name, tmp_path):
    text = config.export(name)
    path = tmp_path / f"config.{FORMATS[name]}"
    path.write_text(text, encoding="utf-8")
    return text, import_file(path, name)[0]


@pytest.mark.parametrize(
    "data",
    [
        {"dataset_name": "a/b", "completion_only_loss": True},
        {"dataset_name": "a/b", "completion_only_loss": False},
        {"dataset_name": "yahma/alpaca-cleaned", "dataset_type": "alpaca_chat"},
        {"path": "rows.jsonl", "dataset_type": "text_sft"},
        {"dataset_name": "a/b", "dataset_type": "messages", "columns": {"messages": "talk"}},
        {
            "dataset_name": "a/b",
            "dataset_type": "chat_completion",
            "prompt_template": "{q}",
            "completion_template": "{a}",
        },
        {"dataset_name": "a/b", "train_target": "final_assistant_turn", "dataset_type": "messages"},
    ],
    ids=str,
)
def test_rows_and_mask_of_oumi_come_back(data, tmp_path):
    config = nbft.Config(**IN_BF16, data=data)
    text, again = _again(config, "oumi", tmp_path)
    assert text.left_out == {}
    assert again.data.completion_only_loss == config.data.completion_only_loss
    assert ("collator_name" in text) == config.data.completion_only_loss
    mine, theirs = config.data.train.datasets[0], again.data.train.datasets[0]
    assert (mine.dataset_type, mine.columns) == (theirs.dataset_type, theirs.columns)
    assert (mine.prompt_template, mine.train_target) == (
        *(theirs.prompt_template, theirs.train_target),
    )


def test_what_this_machine_has_not_is_written_for_another(monkeypatch):
    monkeypatch.setattr(hardware, "available_devices", lambda: {"cpu": "CPU"})
    config = nbft.Config(
        **IN_BF16,
        tracking={"report_to": ["wandb"]},
        model={"attn_implementation": "flash_attention_2", "use_liger_kernel": True},
        data={"dataset_name": "a/b"},
    )
    text = config.export("oumi")
    assert text.left_out == {}
    assert "enable_wandb: true" in text


def test_text_that_another_reader_would_change_is_named(tmp_path):
    config = nbft.Config(**IN_BF16, data={"path": "rows.jsonl", "dataset_type": "alpaca"})
    assert config.export("oumi").left_out == {"data.train.datasets[0].dataset_type": "alpaca"}


def test_chat_templates_of_oumi_come_back(tmp_path):
    for name in ("llama3-instruct", "zephyr", "phi3-instruct"):
        template = chat_template("oumi", name)
        config = nbft.Config(model={"chat_template": template}, data={"dataset_name": "a/b"})
        text, again = _again(config, "oumi", tmp_path)
        assert f"chat_template: {name}" in text
        assert again.model.chat_template == template


def test_methods_are_written_by_their_names_there(tmp_path):
    for method, name in (("sft", "TRL_SFT"), ("base", "HF")):
        config = nbft.Config(training={"method": method}, data={"dataset_name": "a/b"})
        text, again = _again(config, "oumi", tmp_path)
        assert again.training.method == method
        assert name in text or method == "sft"


def test_the_prompt_of_qefficients_document_comes_back(tmp_path):
    config = nbft.Config(
        data={
            "path": "rows.json",
            "prompt_func": "nbft.data.ready:create_alpaca_prompt",
            "completion_template": "{output}",
        }
    )
    text, again = _again(config, "qefficient", tmp_path)
    assert "preprocessing.alpaca_func:create_alpaca_prompt" in text
    assert again.data.train.datasets[0].prompt_func == config.data.train.datasets[0].prompt_func


def test_plain_text_of_ernie_comes_back(tmp_path):
    config = nbft.Config(
        data={"path": "rows.jsonl", "dataset_type": "text", "completion_only_loss": False}
    )
    text, again = _again(config, "erniekit", tmp_path)
    assert "stage: PT" in text
    assert again.data.train.datasets[0].dataset_type == "text"
    assert not again.data.completion_only_loss


def test_layerwise_decay_of_ernie_without_lora_plus():
    config = nbft.Config(**COMMON, optimizer={"layerwise_lr_decay": 0.9})
    assert config.export("erniekit").left_out == {}


def test_python_is_the_cell():
    config = nbft.Config(data={"dataset_name": "grammar"})
    assert config.export("python") == config.to_python()


@pytest.mark.parametrize("name", ["axolotl", "unsloth"])
def test_a_system_that_is_only_read(name):
    with pytest.raises(ConfigError, match="its files can be imported only"):
        nbft.Config().export(name)
