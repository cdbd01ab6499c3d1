"""Files of other systems, run as they are, with the tiny model in place of theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nbft
from nbft.interop.importer import import_file
from nbft.launchers.kernel import join

EXAMPLES = Path(__file__).parents[1] / "examples"

# What no test can have: their models, their rows on the hub, and more than a few steps.
BUNDLED = {
    "yahma/alpaca-cleaned": "alpaca",
    "knkarthick/samsum": "samsum",
    "openai/gsm8k": "gsm8k",
    "grammar": "grammar",
}
QUICK = {
    "training.max_steps": 3,
    "training.num_train_epochs": 1.0,
    "training.per_device_train_batch_size": 2,
    "training.gradient_accumulation_steps": 1,
    "evaluation.sample_count": 0,
    "evaluation.metrics": [],
    "evaluation.per_device_eval_batch_size": 8,
    "data.dataloader_num_workers": 0,
    "data.dataloader_prefetch_factor": None,
    "data.dataloader_persistent_workers": False,
    "tracking.report_to": [],
}
RUN = sorted(
    file
    for file in EXAMPLES.glob("*/*")
    if file.is_file()
    and file.suffix in (".yaml", ".yml", ".json", ".py")
    and file.name != "rows.json"
)


def prepared(config: nbft.Config, tiny_model: Path, folder: Path) -> nbft.Config:
    """Put the tiny model and bundled rows where theirs are out of reach."""
    changes = {"model.model_name": str(tiny_model), "model.tokenizer_name": None, **QUICK}
    changes |= {"training.output_dir": str(folder / "runs"), "model.dtype": "float32"}
    changes |= {"data.max_length": min(config.data.max_length, 192)}
    changes |= {"model.trust_remote_code": False, "training.num_samples_each_epoch": None}
    for name, split in config.data.splits().items():
        for number, dataset in enumerate(split.datasets):
            place = f"data.{name}.datasets[{number}]"
            written = dataset.path or ""
            changes[f"{place}.sample_count"] = 12
            if written and not Path(written).is_file():
                own = EXAMPLES / "erniekit" / "rows" / Path(written).name
                if own.is_file():
                    changes[f"{place}.path"] = str(own)
                else:
                    changes |= {f"{place}.path": None, f"{place}.dataset_name": "alpaca"}
            elif not written:
                bundled = BUNDLED.get(dataset.dataset_name or "", "alpaca")
                changes |= {f"{place}.dataset_name": bundled, f"{place}.subset": None}
    if not config.data.train.datasets:
        changes["data.train.datasets[0].dataset_name"] = "grammar"
        changes["data.train.datasets[0].sample_count"] = 12
    return config.apply(changes)


@pytest.mark.parametrize("file", RUN, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_a_file_of_theirs_trains_to_its_end(file, tiny_model, tmp_path):
    config, _ = import_file(file)
    config = prepared(config, tiny_model, tmp_path)
    assert not nbft.make_plan(config).errors
    run = nbft.train(config, show=False)
    join(run)
    assert run.status == "completed", run.problems
    if config.peft.method != "full":
        assert (run.path / "adapter" / "adapter_config.json").is_file()


def test_a_file_with_every_key_of_qefficient_does_as_it_says(tiny_model, tmp_path):
    config, _ = import_file(EXAMPLES / "qefficient" / "every-key.yaml")
    config = config.apply(
        {
            "model.model_name": str(tiny_model),
            "model.tokenizer_name": None,
            "training.output_dir": str(tmp_path / "runs"),
        }
    )
    run = nbft.train(config, show=False)
    join(run)
    assert run.status == "completed", run.problems
    about = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert (about["r"], about["lora_alpha"], about["bias"]) == (4, 8, "none")
    assert set(about["target_modules"]) == {"q_proj", "k_proj"}
    steps = [event["step"] for event in run.events() if event["event"] == "log"]
    assert steps == [1, 2, 3]
    assert [e["step"] for e in run.events() if e["event"] == "checkpoint"][:1] == [2]


def test_what_qefficient_never_trains_is_trained(tiny_model, tmp_path):
    """Its own code leaves the end of the text and rows with an empty input untrained."""
    config, _ = import_file(EXAMPLES / "qefficient" / "alpaca.yaml")
    rows = [
        {"instruction": "Name a colour.", "input": "", "output": "Blue."},
        {"instruction": "Add.", "input": "2 and 3", "output": "5"},
    ]
    config = prepared(config, tiny_model, tmp_path)
    dataset = config.data.train.datasets[0]
    dataset.rows, dataset.dataset_name, dataset.sample_count = rows * 4, None, None
    from transformers import AutoTokenizer

    from nbft.data.examples import load_examples
    from nbft.data.tokens import tokenise

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config.data.split_ratio = 1.0
    examples, _ = load_examples(config, "train")
    assert len(examples) == 8
    done = tokenise(examples, tokenizer, config).dataset[0]
    assert done["labels"][-1] == tokenizer.eos_token_id
