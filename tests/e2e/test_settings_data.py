"""What the settings of the data do to the batches that a run trains on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

import nbft
from nbft import registry
from nbft.data.examples import load_examples
from nbft.data.tokens import tokenise
from nbft.decisions import decide
from nbft.errors import ConfigError
from nbft.models.load import load_model, load_tokenizer, quiet
from nbft.training.rows import read_rows
from nbft.training.trainer import build_trainer

Make = Callable[..., nbft.Config]


@pytest.fixture
def trainer_of(make_config: Make, tiny_model: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that builds the trainer of a small config; arguments as in make_config."""

    def build(**changes: Any) -> Any:
        config = make_config(**{"evaluation__eval_strategy": "no", **changes})
        with quiet():
            tokenizer = load_tokenizer(config, tiny_model)
            decisions = decide(config)
            padding_free = decisions.padding_free
            rows = read_rows(
                config, tokenizer, lambda _: None, lambda _: None, padding_free=padding_free
            )
            transformers.set_seed(config.training.seed)
            return build_trainer(
                config,
                decisions,
                load_model(config, tiny_model, "float32", "cpu"),
                tokenizer,
                rows,
                output_dir=tmp_path / "checkpoints",
                callbacks=[],
            )

    return build


def batches(trainer: Any) -> list[Any]:
    return list(trainer.get_train_dataloader())


def test_dynamic_padding_goes_to_the_longest_row_of_a_batch(trainer_of):
    widths = {
        batch["input_ids"].shape[1] for batch in batches(trainer_of(data__padding_free=False))
    }
    assert len(widths) > 1
    fixed = trainer_of(data__padding_free=False, data__pad_to_multiple_of=128)
    assert {batch["input_ids"].shape[1] for batch in batches(fixed)} == {128}


def test_a_collator_of_ones_own_makes_the_batches(trainer_of):
    @registry.collators.register("doubled")
    def doubled(tokenizer: Any) -> Any:
        inner = transformers.DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
        return lambda rows: inner([*rows, *rows])

    try:
        trainer = trainer_of(data__collate_fn="doubled", training__per_device_train_batch_size=2)
        assert batches(trainer)[0]["input_ids"].shape[0] == 4
    finally:
        registry.collators.unregister("doubled")


def test_an_unknown_collator_lists_the_known(make_config):
    with pytest.raises(ConfigError, match="is not one of dynamic_padding"):
        make_config(data__collate_fn="static")


def lengths_in_order(trainer: Any) -> list[int]:
    rows = trainer.train_dataset
    return [len(rows[n]["input_ids"]) for n in trainer._get_train_sampler()]


def spread(lengths: list[int], batch: int = 4) -> int:
    groups = [lengths[n : n + batch] for n in range(0, len(lengths), batch)]
    return sum(max(group) - min(group) for group in groups)


def test_rows_of_like_length_come_together(trainer_of):
    plain = lengths_in_order(trainer_of())
    grouped = lengths_in_order(trainer_of(data__train_sampling_strategy="group_by_length"))
    assert sorted(plain) == sorted(grouped)
    assert spread(grouped) < 0.8 * spread(plain)


def test_another_column_can_be_their_length(trainer_of):
    grouped = {"data__train_sampling_strategy": "group_by_length"}
    order = list(trainer_of(**grouped, data__length_column_name="target")._get_train_sampler())
    by_tokens = list(trainer_of(**grouped)._get_train_sampler())
    assert sorted(order) == sorted(by_tokens)
    assert order != by_tokens


def test_the_last_batch_can_be_left_out(trainer_of):
    rows = len(trainer_of().train_dataset)
    whole = trainer_of(training__per_device_train_batch_size=7)
    dropped = trainer_of(training__per_device_train_batch_size=7, data__dataloader_drop_last=True)
    assert rows % 7
    assert (len(batches(whole)), len(batches(dropped))) == (rows // 7 + 1, rows // 7)


def test_batches_are_prepared_by_other_processes(trainer_of):
    plain = trainer_of().get_train_dataloader()
    assert (plain.num_workers, plain.prefetch_factor, plain.persistent_workers) == (0, None, False)
    trainer = trainer_of(
        data__dataloader_num_workers=1,
        data__dataloader_prefetch_factor=3,
        data__dataloader_persistent_workers=True,
    )
    loader = trainer.get_train_dataloader()
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (1, 3, True)
    assert len(list(loader)) == len(batches(trainer_of()))


def test_the_batch_and_the_held_out_batch_have_their_sizes(trainer_of):
    trainer = trainer_of(
        training__per_device_train_batch_size=3,
        evaluation__per_device_eval_batch_size=2,
        data__padding_free=False,
    )
    assert batches(trainer)[0]["input_ids"].shape[0] == 3
    assert next(iter(trainer.get_eval_dataloader()))["input_ids"].shape[0] == 2


def test_a_run_with_columns_and_a_target(train, rows):
    run = train(
        **{
            "data__train__datasets[0]__prompt_template": None,
            "data__train__datasets[0]__completion_template": None,
            "data__train__datasets[0]__input_columns": ["input"],
            "data__train__datasets[0]__target_column": "target",
            "training__max_steps": 2,
        }
    )
    assert run.status == "completed", run.problems


def test_the_order_of_rows_has_a_seed_of_its_own(trainer_of):
    def order(**changes: Any) -> list[int]:
        trainer = trainer_of(**changes)
        return [int(batch["input_ids"].sum()) for batch in batches(trainer)]

    assert order(training__data_seed=1) == order(training__data_seed=1)
    assert order(training__data_seed=1) != order(training__data_seed=2)


def test_a_tokenizer_of_another_model_is_used(make_config, tiny_model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        about = json.loads((tiny_model / name).read_text(encoding="utf-8"))
        if name == "tokenizer_config.json":
            about["model_max_length"] = 77
        (other / name).write_text(json.dumps(about), encoding="utf-8")
    config = make_config(model__tokenizer_name=str(other))
    assert load_tokenizer(config, tiny_model).model_max_length == 77


def test_the_longest_row_is_what_max_length_says(make_config, tiny_model):
    config = make_config(data__max_length=16)
    tokenizer = load_tokenizer(config, tiny_model)
    examples, _ = load_examples(config, "train")
    assert max(len(ids) for ids in tokenise(examples, tokenizer, config).dataset["input_ids"]) <= 16
