"""Preference training in the files of other systems: what becomes of each key, and what is said."""

from __future__ import annotations

import json

import pytest

import nbft
from nbft.interop.importer import import_file

OURS = nbft.Config().preference


@pytest.fixture
def imported(tmp_path):
    def importing(text, name=None, ending="yaml"):
        path = tmp_path / f"config.{ending}"
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        return import_file(path, name)

    return importing


def line(report, key):
    return next(one for one in report if one.key.rpartition(".")[2] == key)


def changed(config):
    """Return the settings of preference training that are not the default, and the method."""
    found = {name: value for name, value in config.preference if value != getattr(OURS, name)}
    return config.training.method, found


ERNIE = "model_name_or_path: a/b\nstage: DPO\nmax_prompt_len: 9999\n"
LLAMA = "model_name_or_path: a/b\nstage: dpo\n"
AXOLOTL = "base_model: a/b\nadapter: lora\n"
OUMI = "model: {{model_name: a/b}}\ntraining: {{trainer_type: {}, trainer_kwargs: {{{}}}}}\n"
TAKEN = [
    ("erniekit", ERNIE, "dpo", {}),
    (
        "erniekit",
        f"{ERNIE}beta: 0.3\nloss_type: simpo\nsimpo_gamma: 0.7\npref_loss_ratio: 2\nsft_loss_ratio: 0.1",
        "dpo",
        {
            "beta": 0.3,
            "loss_type": "simpo",
            "simpo_gamma": 0.7,
            "pref_loss_ratio": 2.0,
            "sft_loss_ratio": 0.1,
        },
    ),
    (
        "erniekit",
        f"{ERNIE}loss_type: dpop\ndpop_lambda: 5",
        "dpo",
        {"loss_type": "dpop", "dpop_lambda": 5.0},
    ),
    (
        "erniekit",
        f"{ERNIE}offset_alpha: 0.5\nlabel_smoothing: 0.1",
        "dpo",
        {"offset_alpha": 0.5, "label_smoothing": 0.1},
    ),
    ("erniekit", f"{ERNIE}reference_free: true", "dpo", {"reference_free": True}),
    (
        "erniekit",
        f"{ERNIE}fine_tuning: Full\nref_model_update_steps: 5",
        "dpo",
        {"ref_model_update_steps": 5},
    ),
    # Their loss `or` has no β and no SFT loss by itself.
    ("erniekit", f"{ERNIE}loss_type: or\nbeta: 0.3", "orpo", {"beta": 1.0, "sft_loss_ratio": 0.0}),
    (
        "erniekit",
        f"{ERNIE}loss_type: or\npref_loss_ratio: 0.25\nsft_loss_ratio: 1",
        "orpo",
        {"beta": 0.25},
    ),
    ("llama_factory", f"{LLAMA}pref_beta: 0.3", "dpo", {"beta": 0.3}),
    ("llama_factory", f"{LLAMA}pref_loss: kto_pair", "dpo", {"loss_type": "kto_pair"}),
    (
        "llama_factory",
        f"{LLAMA}pref_loss: simpo\nsimpo_gamma: 0.9",
        "dpo",
        {"loss_type": "simpo", "simpo_gamma": 0.9},
    ),
    ("llama_factory", f"{LLAMA}pref_loss: orpo\npref_beta: 0.2", "orpo", {"beta": 0.2}),
    ("llama_factory", f"{LLAMA}pref_loss: orpo\npref_ftx: 0.5", "orpo", {"sft_loss_ratio": 1.5}),
    (
        "llama_factory",
        f"{LLAMA}pref_ftx: 0.2\ndpo_label_smoothing: 0.1",
        "dpo",
        {"sft_loss_ratio": 0.2, "label_smoothing": 0.1},
    ),
    (
        "llama_factory",
        "model_name_or_path: a/b\nstage: kto\nkto_chosen_weight: 1.2\nkto_rejected_weight: 0.8",
        "kto",
        {"desirable_weight": 1.2, "undesirable_weight": 0.8},
    ),
    (
        "axolotl",
        f"{AXOLOTL}reward_model: true\nnum_labels: 1\ncenter_rewards_coefficient: 0.01",
        "reward",
        {"center_rewards_coefficient": 0.01},
    ),
    ("llama_factory", LLAMA.replace("stage: dpo", "stage: rm"), "reward", {}),
    ("axolotl", f"{AXOLOTL}rl: dpo\nrl_beta: 0.3", "dpo", {"beta": 0.3}),
    ("axolotl", f"{AXOLOTL}rl: ipo", "dpo", {"loss_type": "ipo"}),
    (
        "axolotl",
        f"{AXOLOTL}rl: simpo\nsimpo_gamma: 0.9\ncpo_alpha: 0.2",
        "cpo",
        {"loss_type": "simpo", "simpo_gamma": 0.9, "sft_loss_ratio": 0.2},
    ),
    ("axolotl", f"{AXOLOTL}rl: orpo\norpo_alpha: 0.4", "orpo", {"beta": 0.4}),
    (
        "axolotl",
        f"{AXOLOTL}rl: kto\nkto_desirable_weight: 1.2\nkto_undesirable_weight: 0.8",
        "kto",
        {"desirable_weight": 1.2, "undesirable_weight": 0.8},
    ),
    (
        "axolotl",
        f"{AXOLOTL}rl: dpo\ndpo_loss_type: [hinge, sft]\ndpo_loss_weights: [0.8, 0.2]",
        "dpo",
        {"loss_type": "hinge", "pref_loss_ratio": 0.8, "sft_loss_ratio": 0.2},
    ),
    ("axolotl", f"{AXOLOTL}rl: dpo\ndpo_label_smoothing: 0.1", "dpo", {"label_smoothing": 0.1}),
    ("oumi", OUMI.format("TRL_DPO", "beta: 0.3"), "dpo", {"beta": 0.3}),
    (
        "oumi",
        OUMI.format("TRL_DPO", "loss_type: [sigmoid, sft], loss_weights: [1.0, 0.2]"),
        "dpo",
        {"loss_type": "sigmoid", "sft_loss_ratio": 0.2},
    ),
    (
        "oumi",
        OUMI.format("TRL_KTO", "undesirable_weight: 1.3, max_prompt_length: 99"),
        "kto",
        {"undesirable_weight": 1.3, "max_prompt_length": 99},
    ),
    (
        "qefficient",
        "model: {model_name: a/b}\ntraining: {type: dpo}\ndpo: {beta: 0.3, loss_type: [hinge]}\n",
        "dpo",
        {"beta": 0.3, "loss_type": "hinge"},
    ),
]


@pytest.mark.parametrize(("system", "text", "method", "settings"), TAKEN)
def test_keys_of_preference_training_are_taken(imported, system, text, method, settings):
    config, report = imported(text, system)
    assert changed(config) == (method, settings)
    assert not report.dropped, [*map(str, report.dropped)]


UNUSED = [
    (
        "erniekit",
        f"{ERNIE}loss_type: hinge\nlabel_smoothing: 0.1",
        "label_smoothing",
        "no smoothing",
    ),
    ("erniekit", f"{ERNIE}loss_type: ipo\noffset_alpha: 0.1", "offset_alpha", "only sigmoid has"),
    ("erniekit", f"{ERNIE}ref_model_update_steps: 5", "ref_model_update_steps", "off with LoRA"),
    (
        "erniekit",
        f"{ERNIE}fine_tuning: Full\nreference_free: true\nref_model_update_steps: 5",
        "ref_model_update_steps",
        "there is no reference model",
    ),
    (
        "oumi",
        OUMI.format("TRL_DPO", "label_smoothing: 0.1"),
        "label_smoothing",
        "TRL ignores it with the loss sigmoid",
    ),
]


@pytest.mark.parametrize(("system", "text", "key", "why"), UNUSED)
def test_what_has_no_effect_there_is_left_out_and_said(imported, system, text, key, why):
    config, report = imported(text, system)
    found = line(report, key)
    assert (found.kind, why in found.note) == ("ignored", True), str(found)
    assert getattr(config.preference, key, None) == getattr(OURS, key, None)


DIFFERENT = [
    ("llama_factory", f"{LLAMA}pref_bco_weight: 0.5", "pref_bco_weight", "impossible"),
    ("llama_factory", f"{LLAMA}ref_model: c/d", "ref_model", "impossible"),
    ("llama_factory", f"{LLAMA}pref_ftx: 0.5", "pref_ftx", "deviates"),
    (
        "llama_factory",
        "model_name_or_path: a/b\nstage: kto\npref_ftx: 0.5",
        "pref_ftx",
        "impossible",
    ),
    ("axolotl", f"{AXOLOTL}rl: dpo\ndpo_label_smoothing: 0.1", "dpo_label_smoothing", "deviates"),
    ("axolotl", f"{AXOLOTL}rl: dpo\ntrl: {{sync_ref_model: true}}", "sync_ref_model", "deviates"),
    ("oumi", OUMI.format("TRL_DPO", "loss_type: aot"), "loss_type", "impossible"),
    ("oumi", OUMI.format("TRL_DPO", "loss_type: [ipo, hinge]"), "loss_type", "impossible"),
    (
        "oumi",
        OUMI.format("TRL_DPO", "max_completion_length: 9"),
        "max_completion_length",
        "impossible",
    ),
]


@pytest.mark.parametrize(("system", "text", "key", "kind"), DIFFERENT)
def test_what_differs_is_said(imported, system, text, key, kind):
    _, report = imported(text, system)
    assert line(report, key).kind == kind, str(line(report, key))
    assert line(report, key).note


def test_without_preference_training_its_keys_change_nothing(imported):
    config, report = imported(
        "model_name_or_path: a/b\nstage: SFT\nbeta: 0.3\nloss_type: or\n", "erniekit"
    )
    assert changed(config) == ("sft", {})
    assert line(report, "beta").note == "used in preference training only"
    assert not report.dropped


def test_prompts_have_the_limit_of_ernie(imported):
    config, report = imported("model_name_or_path: a/b\nstage: DPO\n", "erniekit")
    assert config.preference.max_prompt_length == 2048
    assert line(report, "max_prompt_len").kind == "defaulted"
    assert imported(ERNIE, "erniekit")[0].preference.max_prompt_length is None


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("erniekit", f"{ERNIE}packing: true"),
        ("axolotl", f"{AXOLOTL}rl: dpo"),
        ("llama_factory", f"{LLAMA}packing: true"),
    ],
)
def test_pairs_are_not_packed(imported, system, text):
    config, _ = imported(text, system)
    assert not config.data.packing
    assert config.data.completion_only_loss


def test_dropout_is_off_where_trl_turns_it_off(imported):
    kept, _ = imported(f"{LLAMA}lora_dropout: 0.1".replace("dpo", "rm"), "llama_factory")
    assert kept.peft.lora_dropout == 0.1  # not in its training of reward models
    config, report = imported(f"{LLAMA}lora_dropout: 0.1", "llama_factory")
    assert config.peft.lora_dropout == 0
    assert "turned off in preference training there" in line(report, "lora_dropout").note
    config, _ = imported("model_name_or_path: a/b\nlora_dropout: 0.1", "llama_factory")
    assert config.peft.lora_dropout == 0.1


# Scripts

SCRIPT = """
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import {name}Config, {name}Trainer
model = AutoModelForCausalLM.from_pretrained("a/b")
trainer = {name}Trainer(
    model, {first}args={name}Config("out", {arguments}), train_dataset=load_dataset("c/d", split="train"),
    peft_config=LoraConfig(r=8, lora_dropout=0.1),{more}
)
trainer.train()
"""


def script(name, arguments="", first="", more=""):
    return SCRIPT.format(name=name, arguments=arguments, first=first, more=more)


SCRIPTS = [
    ("DPO", "beta=0.3, learning_rate=5e-6", "dpo", {"beta": 0.3}),
    (
        "DPO",
        'loss_type=["ipo", "sft"], loss_weights=[1.0, 0.2], max_prompt_length=99',
        "dpo",
        {"loss_type": "ipo", "sft_loss_ratio": 0.2, "max_prompt_length": 99},
    ),
    (
        "DPO",
        "reference_free=True, rpo_alpha=0.5",
        "dpo",
        {"reference_free": True, "sft_loss_ratio": 0.5},
    ),
    (
        "DPO",
        "sync_ref_model=True, ref_model_sync_steps=64, ref_model_mixup_alpha=1.0",
        "dpo",
        {"ref_model_update_steps": 64},
    ),
    (
        "DPO",
        'loss_type="robust", label_smoothing=0.1',
        "dpo",
        {"loss_type": "robust", "label_smoothing": 0.1},
    ),
    ("KTO", "undesirable_weight=1.3", "kto", {"undesirable_weight": 1.3}),
    ("ORPO", "beta=0.3", "orpo", {"beta": 0.3}),
    (
        "Reward",
        "center_rewards_coefficient=0.01",
        "reward",
        {"center_rewards_coefficient": 0.01},
    ),
    (
        "CPO",
        'loss_type="simpo", simpo_gamma=0.9, cpo_alpha=0.0, label_smoothing=0.1',
        "cpo",
        {"loss_type": "simpo", "simpo_gamma": 0.9, "sft_loss_ratio": 0.0, "label_smoothing": 0.1},
    ),
]


@pytest.mark.parametrize(("name", "arguments", "method", "settings"), SCRIPTS)
def test_scripts_of_trl(imported, name, arguments, method, settings):
    config, report = imported(script(name, arguments), ending="py")
    assert changed(config) == (method, settings)
    assert not report.dropped, [*map(str, report.dropped)]
    assert config.peft.lora_dropout == 0  # TRL turns it off
    assert config.data.completion_only_loss == (method != "orpo")
    assert config.data.shuffle == (method != "kto")
    usual = 1e-4 if method == "reward" else 1e-6
    assert config.training.learning_rate == (5e-6 if "learning_rate" in arguments else usual)


def test_a_script_with_a_classifier_trains_a_reward_model(imported):
    text = script("Reward").replace("ForCausalLM", "ForSequenceClassification")
    text = text.replace('from_pretrained("a/b")', 'from_pretrained("a/b", num_labels=1)')
    text = text.replace("LoraConfig(r=8", 'LoraConfig(task_type="SEQ_CLS", r=8')
    config, report = imported(text, ending="py")
    assert config.training.method == "reward"
    assert config.model.model_name == "a/b"
    assert not report.dropped, [*map(str, report.dropped)]
    text = script("SFT").replace("ForCausalLM", "ForSequenceClassification")
    with pytest.raises(nbft.ConfigError, match="is not a model that writes text"):
        imported(text, ending="py")


def test_trl_smooths_no_labels_with_sigmoid(imported):
    config, report = imported(script("DPO", "label_smoothing=0.1"), ending="py")
    assert config.preference.label_smoothing == 0
    assert "TRL ignores it with the loss sigmoid" in line(report, "label_smoothing").note


def test_the_reference_model_of_a_script(imported):
    config, report = imported(script("DPO", "beta=0.3", first="None, "), ending="py")
    assert config.preference.beta == 0.3
    assert not report.dropped
    _, report = imported(script("DPO", first="model, "), ending="py")
    assert line(report, "ref_model").kind == "taken"
    other = 'AutoModelForCausalLM.from_pretrained("e/f"), '
    _, report = imported(script("DPO", first=other), ending="py")
    assert line(report, "ref_model").kind == "impossible"


def test_older_scripts_give_the_trainer_its_numbers(imported):
    config, report = imported(
        script("DPO", more="\n    beta=0.3, max_length=512, max_prompt_length=99,"), ending="py"
    )
    assert changed(config) == ("dpo", {"beta": 0.3, "max_prompt_length": 99})
    assert config.data.max_length == 512
    assert not report.dropped


# Rows

INFO = {
    "ranked": {
        "file_name": "ranked.json",
        "ranking": True,
        "columns": {"prompt": "ask", "query": "more", "chosen": "good", "rejected": "bad"},
    },
    "chats": {
        "file_name": "chats.json",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "chosen": "chosen", "rejected": "rejected"},
    },
    "judged": {
        "file_name": "judged.json",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "kto_tag": "liked"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    },
    "judged_alpaca": {
        "file_name": "judged_alpaca.json",
        "columns": {"prompt": "ask", "response": "answer", "kto_tag": "liked"},
    },
}
TALK = [{"from": "human", "value": "Why?"}]
JUDGED = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
FILES = {
    "ranked": [{"ask": "Why?", "more": "Say.", "good": "So.", "bad": "No."}],
    "chats": [
        {
            "talk": TALK,
            "chosen": {"from": "gpt", "value": "So."},
            "rejected": {"from": "gpt", "value": "No."},
        }
    ],
    "judged": [{"talk": JUDGED, "liked": True}],
    "judged_alpaca": [{"ask": "Why?", "answer": "So.", "liked": False}],
}


@pytest.mark.parametrize(
    ("name", "stage", "asked"),
    [
        ("ranked", "dpo", "Why?\nSay."),
        ("chats", "dpo", "Why?"),
        ("judged", "kto", "Why?"),
        ("judged_alpaca", "kto", "Why?"),
    ],
)
def test_the_rows_of_llama_factory(imported, tmp_path, name, stage, asked):
    from nbft.data.examples import load_examples

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(INFO))
    for file, rows in FILES.items():
        (tmp_path / "data" / f"{file}.json").write_text(json.dumps(rows))
    text = f"model_name_or_path: a/b\nstage: {stage}\ndataset: {name}\n"
    config, report = imported(text, "llama_factory")
    assert not report.dropped, [*map(str, report.dropped)]
    (example,) = load_examples(config, "train")[0]
    assert [turn["content"] for turn in example.messages] == [asked, "So."]
    assert [turn["role"] for turn in example.messages] == ["user", "assistant"]
    if stage == "dpo":
        assert [turn["content"] for turn in example.rejected] == [asked, "No."]
    else:
        assert example.label is (name == "judged")


# The way back

EXPORTED = [
    ("erniekit", "dpo", {"beta": 0.3, "sft_loss_ratio": 0.2, "pref_loss_ratio": 0.8}),
    ("erniekit", "dpo", {"loss_type": "dpop", "dpop_lambda": 5.0, "max_prompt_length": 99}),
    ("erniekit", "dpo", {"reference_free": True}),
    ("erniekit", "orpo", {"beta": 0.3}),
    ("erniekit", "cpo", {"beta": 0.3}),
    ("erniekit", "cpo", {"loss_type": "simpo", "simpo_gamma": 0.9}),
    ("erniekit", "orpo", {"beta": 0.3, "sft_loss_ratio": 0.5}),
    ("oumi", "dpo", {"beta": 0.3, "loss_type": "ipo", "max_prompt_length": 99}),
    ("oumi", "dpo", {"loss_type": "hinge", "sft_loss_ratio": 0.2, "pref_loss_ratio": 0.8}),
    ("oumi", "dpo", {"loss_type": "robust", "label_smoothing": 0.1}),
    ("oumi", "kto", {"undesirable_weight": 1.3}),
    ("qefficient", "dpo", {"beta": 0.3, "loss_type": "ipo"}),
]


@pytest.mark.parametrize(("system", "method", "settings"), EXPORTED)
def test_preference_training_comes_back(imported, system, method, settings):
    config = nbft.Config(
        data={"path": "rows.jsonl"}, training={"method": method}, preference=settings
    )
    text = config.export(system)
    assert not {name for name in text.left_out if name.startswith(("preference", "training.m"))}
    again, _ = imported(str(text), system)
    assert changed(again) == (method, settings)


def test_what_they_do_not_have_is_listed():
    rows = {"data": {"path": "rows.jsonl"}, "training": {"method": "dpo"}}
    left = nbft.Config(**rows, preference={"loss_type": "dpop"}).export("oumi").left_out
    assert left["preference.loss_type"] == "dpop"
    rows["training"] = {"method": "orpo"}
    assert nbft.Config(**rows).export("oumi").left_out["training.method"] == "orpo"
