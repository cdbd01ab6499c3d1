"""Our settings are taken by the libraries as they are."""

import dataclasses
import inspect

import pytest

from nbft.config import Config, presets, settings
from nbft.config.data import SPLITS
from nbft.decisions import decide
from nbft.hardware import Choice
from nbft.interop.huggingface import _SAME_NAME, lora_arguments, training_arguments


def arguments_of(config, device="cpu", mixed_precision="no"):
    decisions = decide(config.apply({"compute.device": device}))
    chosen = Choice(mixed_precision, "")
    return training_arguments(config, dataclasses.replace(decisions, mixed_precision=chosen))


@pytest.mark.parametrize("name", ["", *presets()])
@pytest.mark.parametrize("method", ["sft", "base"])
def test_the_libraries_take_every_preset(name, method, tmp_path):
    import transformers
    import trl

    config = (Config.preset(name) if name else Config()).apply({"training.method": method})
    kind = trl.SFTConfig if method == "sft" else transformers.TrainingArguments
    taken = kind(output_dir=str(tmp_path), **arguments_of(config))
    assert taken.learning_rate == config.training.learning_rate
    assert taken.warmup_steps == config.scheduler.warmup_steps
    assert taken.gradient_checkpointing is config.memory.gradient_checkpointing
    assert taken.use_cpu is True


def test_every_setting_of_the_table_is_one_of_ours_and_one_of_theirs():
    import transformers

    theirs = inspect.signature(transformers.TrainingArguments).parameters
    ours = {setting.path for setting in settings()}
    for section, names in _SAME_NAME.items():
        for name in names:
            assert f"{section}.{name}" in ours
            assert name in theirs


def test_every_setting_called_as_theirs_reaches_them():
    """A setting that is silently ignored would be worse than none."""
    import transformers

    theirs = inspect.signature(transformers.TrainingArguments).parameters
    ours = {s.path for s in settings() if s.name in theirs and "datasets" not in s.path}
    passed = {f"{section}.{name}" for section, names in _SAME_NAME.items() for name in names}
    by_hand = {"training.output_dir", "training.run_name"}
    by_hand |= {"training.do_train", "training.resume_from_checkpoint", "logging.disable_tqdm"}
    by_hand |= {"logging.include_num_input_tokens_seen"}
    by_hand |= {"data.length_column_name", *(f"data.{name}.seed" for name in SPLITS)}
    planned = {s.path for s in settings() if s.section == "distributed"}
    assert ours - passed - by_hand - planned == set()


@pytest.mark.parametrize(("value", "flags"), [("bf16", (True, False)), ("fp16", (False, True))])
def test_mixed_precision(value, flags):
    found = arguments_of(Config(), "cuda", value)
    assert (found["bf16"], found["fp16"], found["use_cpu"]) == (*flags, False)


def test_rows_stay_in_their_order_when_no_shuffle_is_asked_for():
    assert arguments_of(Config())["train_sampling_strategy"] == "random"
    plain = Config(data={"shuffle": False})
    assert arguments_of(plain)["train_sampling_strategy"] == "sequential"
    grouped = Config(data={"shuffle": False, "train_sampling_strategy": "group_by_length"})
    assert arguments_of(grouped)["train_sampling_strategy"] == "group_by_length"


def test_pinned_memory_is_for_a_gpu():
    assert arguments_of(Config(), "cuda")["dataloader_pin_memory"] is True
    unpinned = Config(data={"dataloader_pin_memory": False})
    assert arguments_of(unpinned, "cuda")["dataloader_pin_memory"] is False
    assert arguments_of(Config())["dataloader_pin_memory"] is False


def test_what_is_empty_is_left_to_the_library():
    found = arguments_of(Config())
    assert not {"tf32", "neftune_noise_alpha", "greater_is_better", "metric_for_best_model"} & set(
        found
    )
    best = Config(checkpoint={"load_best_model_at_end": True})
    assert arguments_of(best)["metric_for_best_model"] == "eval_loss"
    early = Config(callbacks={"early_stopping_patience": 2})
    assert arguments_of(early)["metric_for_best_model"] == "eval_loss"


def test_nothing_of_ours_is_cut_or_prepared_a_second_time():
    found = arguments_of(Config())
    assert found["max_length"] is None
    assert found["dataset_kwargs"] == {"skip_prepare_dataset": True}


@pytest.mark.parametrize(
    ("peft", "expected"),
    [
        ({}, {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "modules_to_save": None}),
        ({"target_modules": ["q_proj"]}, {"target_modules": ["q_proj"]}),
        ({"init_lora_weights": "gaussian"}, {"init_lora_weights": "gaussian"}),
        ({"use_dora": True, "use_rslora": True}, {"use_dora": True, "use_rslora": True}),
    ],
)
def test_the_adapter(peft, expected):
    import peft as library

    found = lora_arguments(Config(peft=peft))
    assert found.items() >= expected.items()
    library.LoraConfig(**found)
