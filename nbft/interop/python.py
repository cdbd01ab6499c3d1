"""A config as a plain Python cell of transformers, TRL and PEFT that runs without nbft.

It trains the same model on the same rows with the same arguments. Where the rows come from a
function or from memory, the cell says what to put there. Called by `Config.to_python`.
"""

from __future__ import annotations

import pprint
from typing import Any

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.data.ready import READY
from nbft.data.samples import sample_path
from nbft.interop.huggingface import lora_arguments, training_arguments
from nbft.models.find import ALIASES, find_local
from nbft.plan.hardware import choose_device, choose_dtype, choose_mixed_precision

_ONLY_IN_A_RUN = {"disable_tqdm", "run_name", "project", "log_level", "dataset_kwargs"}


def to_python(config: Config) -> str:
    """Return the cell's text."""
    device = choose_device(config).value
    dtype = choose_dtype(config, device).value
    arguments = training_arguments(
        config, device, choose_mixed_precision(config, device, dtype)
    )
    arguments = {k: v for k, v in arguments.items() if k not in _ONLY_IN_A_RUN and v is not None}
    lora = config.peft.method == "lora"
    sft = config.training.method == "sft"
    found = find_local(config.model.model_name)
    hub_name = ALIASES.get(config.model.model_name, config.model.model_name)
    name = str(found.path) if found and found.source in ("nbft's cache", "folder") else hub_name
    lines = [
        "import random",
        "",
        "import torch",
        "from datasets import Dataset, load_dataset",
        *(["from peft import LoraConfig" + ("" if sft else ", get_peft_model")] if lora else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed"
        + ("" if sft else ", DataCollatorForSeq2Seq, Trainer, TrainingArguments"),
        *(["from trl import SFTConfig, SFTTrainer"] if sft else []),
        "",
        f"MODEL = {name!r}" + (f"  # {hub_name} on the hub" if name != hub_name else ""),
        f"MAX_LENGTH = {config.data.max_length}",
        f"SEED = {config.training.seed}",
        "",
        "tokenizer = AutoTokenizer.from_pretrained(MODEL)",
        f"model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.{dtype})",
        "",
        *_data(config),
        "",
        "",
        *_TOKENISE.format(learnt=str(config.data.completion_only_loss)).strip().splitlines(),
        "",
        "",
        "set_seed(SEED)",
    ]
    if lora:
        lines += [f"lora = {_call('LoraConfig', lora_arguments(config))}"]
        if not sft:
            lines += ["model = get_peft_model(model, lora)"]
    kind = "SFTConfig" if sft else "TrainingArguments"
    extra = "skip_prepare_dataset"
    if sft:
        arguments["dataset_kwargs"] = {extra: True}
        arguments["max_length"] = None
    arguments = {"output_dir": "checkpoints", **arguments}
    lines += [
        f"arguments = {_call(kind, arguments)}",
        f"trainer = {'SFTTrainer' if sft else 'Trainer'}(",
        "    model=model,",
        "    args=arguments,",
        "    train_dataset=Dataset.from_list([tokens(*pair) for pair in train]),",
        "    eval_dataset=Dataset.from_list([tokens(*pair) for pair in held_out]) if held_out "
        "else None,",
        "    processing_class=tokenizer,",
        *(["    peft_config=lora,"] if lora and sft else []),
        *(
            []
            if sft
            else ["    data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),"]
        ),
        ")",
        "trainer.train()",
        "trainer.save_model('adapter')" if lora else "trainer.save_model('model')",
    ]
    return "\n".join(lines) + "\n"


_TOKENISE = '''
def tokens(prompt, completion):
    """Cut a prompt and its completion into tokens; -100 marks what is not learnt."""
    before = tokenizer(prompt)["input_ids"]
    whole = tokenizer(prompt + completion)["input_ids"]
    if whole[: len(before)] != before:  # a token would cross the boundary: cut them apart
        whole = before + tokenizer(completion, add_special_tokens=False)["input_ids"]
    whole = whole + [tokenizer.eos_token_id]
    labels = [-100] * len(before) + whole[len(before) :] if {learnt} else list(whole)
    return {{"input_ids": whole[:MAX_LENGTH], "labels": labels[:MAX_LENGTH]}}
'''


def _data(config: Config) -> list[str]:
    train = [line for d in config.data.train.datasets for line in _pairs(d, "train")]
    lines = ["train, held_out = [], []", *[line.format(into="train") for line in train]]
    if config.data.validation is not None:
        held = [line for d in config.data.validation.datasets for line in _pairs(d, "validation")]
        lines += [line.format(into="held_out") for line in held]
    elif config.data.split_ratio < 1:
        lines += [
            "order = list(range(len(train)))",
            "random.Random(SEED).shuffle(order)",
            f"cut = len(order) - min(max(round(len(order) * {1 - config.data.split_ratio!r}), 1), "
            "len(order) - 1)",
            "train, held_out = [train[n] for n in order[:cut]], [train[n] for n in order[cut:]]",
        ]
    if config.data.shuffle:
        lines += ["random.Random(SEED).shuffle(train)"]
    return lines


def _pairs(dataset: Dataset, split: str) -> list[str]:
    """Return the lines that add a dataset's (prompt, completion) pairs to `{into}`."""
    ready = READY.get(dataset.dataset_name or "") if dataset.path is None else None
    if dataset.rows is not None:
        load = "rows = []  # put your rows here: they were in memory"
    elif dataset.path is not None:
        kind = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
        ending = "." + dataset.path.rsplit(".", 1)[-1].lower()
        load = (
            f"rows = load_dataset({kind.get(ending, 'json')!r}, data_files={dataset.path!r}, "
            "split='train')"
        )
    elif ready:
        own = sample_path(str(dataset.dataset_name), "train" if split == "train" else "test")
        where = f"  # or the whole of it: load_dataset({ready.hub_name!r})"
        load = f"rows = load_dataset('json', data_files={str(own)!r}, split='train'){where}"
    else:
        named = [repr(dataset.dataset_name), *([repr(dataset.subset)] if dataset.subset else [])]
        wanted = dataset.split or ("train" if split == "train" else "test")
        load = f"rows = load_dataset({', '.join(named)}, split={wanted!r})"
    lines = [load.replace("{", "{{").replace("}", "}}")]
    if dataset.columns:
        renamed = {old: new for new, old in dataset.columns.items()}
        lines += [f"rows = rows.rename_columns({renamed!r})".replace("{", "{{").replace("}", "}}")]
    lines += ["rows = list(rows)"]
    if dataset.shuffle:
        seed = "SEED" if dataset.seed is None else dataset.seed
        lines += [f"random.Random({seed}).shuffle(rows)"]
    if dataset.sample_count is not None:
        lines += [f"rows = rows[:{dataset.sample_count}]"]
    parts = []
    for part in ("prompt", "completion"):
        template = getattr(dataset, f"{part}_template")
        function = getattr(dataset, f"{part}_func")
        if ready and template is None and function is None:
            template, function = getattr(ready, f"{part}_template", ""), getattr(
                ready, f"{part}_func", ""
            )
        if template:
            parts.append(f"{template!r}.format(**row)".replace("{", "{{").replace("}", "}}"))
        elif function and function.startswith("nbft.data.ready:"):
            lines += [line.replace("{", "{{").replace("}", "}}") for line in _ALPACA.splitlines()]
            parts.append("alpaca_prompt(row)")
        elif function:
            where, _, name = function.rpartition(":")
            parts.append(f"{name}(row)")
            lines += [f"# {name} comes from {where}: import it here"]
        else:
            parts.append(f"row[{part!r}]")
    return [*lines, f"{{into}} += [({parts[0]}, {parts[1]}) for row in rows]"]


_ALPACA = '''

def alpaca_prompt(row):
    """Return the prompt of an instruction, with its input where it has one."""
    given = f"### Input:\\n{row['input']}\\n\\n" if row.get("input") else ""
    return f"### Instruction:\\n{row['instruction']}\\n\\n{given}### Response:\\n"

'''


def _call(name: str, arguments: dict[str, Any]) -> str:
    inner = "".join(
        f"    {key}={pprint.pformat(value, width=80, compact=True)},\n"
        for key, value in arguments.items()
    )
    return f"{name}(\n{inner})"
