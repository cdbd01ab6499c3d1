"""Preference training: the losses of TRL's trainers over whole runs, whatever the layout of a batch."""

from __future__ import annotations

import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import nbft
from nbft.launchers.kernel import join
from nbft.training.preference import sequence_of
from nbft.training.rows import read_rows

from .conftest import PREFERENCE_BATCH as BATCH
from .conftest import PREFERENCE_STEPS as STEPS


def trained(config):
    run = nbft.train(config, show=False)
    join(run)
    assert run.status == "completed", [*run.events()][-1]
    return run


def by_trl(config, folder, trainer, arguments, rows=None, **more):
    """Train the same rows with a trainer of TRL, and return its log."""
    tokenizer = AutoTokenizer.from_pretrained(config.model.model_name)
    model = AutoModelForCausalLM.from_pretrained(config.model.model_name, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = arguments(
            str(folder),
            per_device_train_batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            max_length=config.data.max_length,
            **more,
        )
        # The rows are tokens already, which it would otherwise make of texts.
        as_they_are = {"_prepare_dataset": lambda self, rows, *_, **__: rows}
        made = type(trainer.__name__, (trainer,), as_they_are)(
            model=model,
            args=args,
            train_dataset=rows_for_trl(config, tokenizer) if rows is None else Tokens(rows),
            processing_class=tokenizer,
        )
        made.train()
    return [log for log in made.state.log_history if "loss" in log]


class Tokens(list):
    """Rows that are tokens already, which experimental trainers map to tokens."""

    column_names = ("chosen_input_ids",)

    def map(self, *args, **kwargs):
        return self


def rows_for_trl(config, tokenizer):
    """Return nbft's own tokens under TRL's names, so that only the losses are compared."""
    import datasets

    known = read_rows(config, tokenizer, print, print, padding_free=False).known
    found = []
    for row in known.dataset:
        of_row = {}
        for name in known.method.sequences:
            ids, _, begin = sequence_of(row, known.method, name)
            of_row |= {"prompt_ids": ids[:begin], f"{name}_ids": ids[begin:]}
        found.append(of_row)
        if "label" in row:
            of_row["label"] = row["label"] > 0.5
    if known.method.sequences == ("completion",):  # in the blocks that TRL makes
        for n, row in enumerate(found):
            begin = n // BATCH * BATCH
            block = found[begin : begin + BATCH]
            row["KL_completion_ids"] = block[n - begin - 1]["completion_ids"]
    return datasets.Dataset.from_list(found)


def assert_alike(run, theirs, measures=()):
    ours = [e for e in run.events() if e["event"] == "log"]
    assert len(ours) == len(theirs) == STEPS
    for name in ("loss", *measures):
        # Before the first step both answers are as likely as by the reference, up to rounding.
        first = int(name == "rewards/accuracies")
        exact = 1e-5 if name == "loss" else 1e-4
        assert [e[name] for e in ours[first:]] == pytest.approx(
            [log[name] for log in theirs[first:]], rel=exact, abs=1e-5
        ), name
    assert ours[0]["loss"] != ours[-1]["loss"]


MEASURES = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
SMOOTHED = {"robust": 0.1, "exo_pair": 0.1}


@pytest.mark.parametrize(
    "loss_type",
    "sigmoid hinge ipo nca_pair sppo_hard sigmoid_norm robust exo_pair bco_pair apo_zero apo_down".split(),
)
def test_dpo_has_the_losses_of_trl(loss_type, preference, tmp_path):
    from trl import DPOConfig, DPOTrainer

    smoothing = SMOOTHED.get(loss_type, 0.0)
    config = preference(
        "dpo", preference__loss_type=loss_type, preference__label_smoothing=smoothing
    )
    theirs = by_trl(
        config, tmp_path, DPOTrainer, DPOConfig, loss_type=loss_type, label_smoothing=smoothing
    )
    assert_alike(trained(config), theirs, (*MEASURES, "logps/chosen", "logps/rejected"))


def test_dpo_with_an_sft_loss_has_the_loss_of_trl(preference, tmp_path):
    from trl import DPOConfig, DPOTrainer

    config = preference("dpo", preference__sft_loss_ratio=0.3, preference__pref_loss_ratio=0.7)
    mixed = {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.7, 0.3]}
    assert_alike(trained(config), by_trl(config, tmp_path, DPOTrainer, DPOConfig, **mixed))


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_kto_has_the_losses_of_trl(loss_type, preference, tmp_path):
    from trl import KTOConfig, KTOTrainer

    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.3}
    config = preference("kto", preference__loss_type=loss_type).apply(
        {f"preference.{name}": value for name, value in weights.items()}
    )
    theirs = by_trl(config, tmp_path, KTOTrainer, KTOConfig, loss_type=loss_type, **weights)
    assert_alike(trained(config), theirs, ("kl",) if loss_type == "kto" else ())


@pytest.mark.parametrize(
    ("method", "loss_type"),
    [("orpo", None), ("cpo", "sigmoid"), ("cpo", "hinge"), ("cpo", "ipo"), ("cpo", "simpo")],
)
def test_orpo_and_cpo_have_the_losses_of_trl(method, loss_type, preference, tmp_path):
    """TRL's ORPO imitates prompts as well, which nbft does without completion_only_loss."""
    if method == "orpo":
        from trl.experimental.orpo import ORPOConfig as Config_
        from trl.experimental.orpo import ORPOTrainer as Trainer_
    else:
        from trl.experimental.cpo import CPOConfig as Config_
        from trl.experimental.cpo import CPOTrainer as Trainer_
    config = preference(
        method,
        preference__loss_type=loss_type,
        data__completion_only_loss=method != "orpo",
    )
    tokenizer = AutoTokenizer.from_pretrained(config.model.model_name)
    rows = [
        {
            "chosen_input_ids": row["chosen_input_ids"],
            "rejected_input_ids": row["rejected_input_ids"],
            **{f"{n}_attention_mask": [1] * len(row[f"{n}_input_ids"]) for n in SIDES},
            **{f"{n}_labels": answer_labels(row, n) for n in SIDES},
            "prompt": "",
        }
        for row in read_rows(config, tokenizer, print, print, padding_free=False).known.dataset
    ]
    more = {"loss_type": loss_type} if loss_type else {}
    theirs = by_trl(config, tmp_path, Trainer_, Config_, rows=rows, **more)
    # TRL's CPO logs the rewards of ipo per token, its DPO those of whole answers, as nbft does.
    measures = () if loss_type == "ipo" else ("rewards/margins", "rewards/accuracies")
    assert_alike(trained(config), theirs, measures)


SIDES = ("chosen", "rejected")


def answer_labels(row, name):
    begin = row[f"{name}_prompt_tokens"]
    return [-100] * begin + row[f"{name}_input_ids"][begin:]


def test_a_run_knows_how_far_length_alone_would_come(preference, pairs):
    """The held-out pairs are ordered by the rule that holds for most training pairs."""
    config = preference("dpo", training__max_steps=2, data__split_ratio=0.8)
    run = trained(config)
    (prepared,) = (event for event in run.events() if event["event"] == "prepared")
    tokenizer = AutoTokenizer.from_pretrained(config.model.model_name)

    def longer(split):
        """Return 1 for each pair with a longer chosen answer, and -1 for a shorter one."""
        counts = [
            [len(tokenizer(answer)["input_ids"]) for answer in (e.completion, e.rejected)]
            for e in nbft.examples(config, split)
        ]
        return torch.tensor(counts).diff(dim=1).neg().sign().float().flatten()

    held_out = longer("validation")
    assert prepared["eval_rows"] == len(held_out) > 0
    rule = 1 if longer("train").sum() >= 0 else -1
    wanted = float((1 + rule * held_out.mean()) / 2)
    assert prepared["length_accuracy"] == pytest.approx(wanted)
    assert 0.5 < wanted < 1, "these pairs tell the two apart"
    labelled = trained(preference("kto", training__max_steps=2))
    assert all("length_accuracy" not in event for event in labelled.events())
