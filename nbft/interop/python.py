"""A config as a plain Python cell of transformers, TRL and PEFT that runs without nbft.

It trains the same model on the same rows with the same arguments, and so gives the same losses.
Rows from memory have to be inserted by hand. Called by `Config.to_python`.
"""

from __future__ import annotations

import contextlib
import itertools
import pprint
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.config.io import resolve
from nbft.config.peft import ALL_LINEAR
from nbft.data import tables
from nbft.data.formats import Format, recognise, templates
from nbft.data.ready import READY
from nbft.data.samples import sample_path
from nbft.data.sources import columns_of, load_rows
from nbft.data.templates import column_of, parsed_template
from nbft.data.turns import RowError
from nbft.decisions import Decisions, decide, keeps_float32
from nbft.errors import ConfigError, DataError, Problem
from nbft.interop.absent import absent, value_of
from nbft.interop.huggingface import adapter_arguments, training_arguments
from nbft.interop.python_preferences import JUDGED, PAIR, ROWS, SCORED, WITHOUT_BEGIN, plain
from nbft.interop.report import Exported, shown
from nbft.methods import method_of
from nbft.models.adapters import adapter_of, base_name
from nbft.models.classifiers import HEAD
from nbft.models.find import ALIASES, find_local
from nbft.models.load import model_arguments
from nbft.models.peft_types import excluded_pattern, peft_type_of, peft_types
from nbft.models.templates import template_of
from nbft.plan.schedule import rows_per_batch
from nbft.redaction import redact, redact_text

_EVEN_IF_NONE = {"max_length"}
"""Arguments with a default other than None."""

_NOT_OF_TRL = {"remove_unused_columns", "include_num_input_tokens_seen"}
"""Arguments of nbft's trainer of preferences, which TRL's chooses itself."""

_ONLY_IN_A_RUN = {"disable_tqdm", "run_name", "project", "log_level"}


def to_python(config: Config) -> Exported:
    """Return the text of the cell, which begins with the settings that it ignores.

    Raises:
        ConfigError: The method has rewards, which a cell cannot hold.
    """
    method, decisions, old_adapter = method_of(config), decide(config), _old_adapter(config)
    if method.generates:
        why = f"cannot be written as plain Python: {method.trainer_name} needs its rewards as code."
        fix = "Train it with nbft; its adapter loads in plain PEFT."
        raise ConfigError(Problem("training.method", config.training.method, why, fix))
    preference = plain(config)
    adapter = None if old_adapter else adapter_arguments(config)
    data = _data(config)
    chat = "said(" in data or any(
        written in data
        for call in _CHATS.values()
        for written in (f"+= [{call} for", f'yield {{"example": {call}}}')
    )
    tokens = _TOKENS.strip().format(
        whole="whole, labels = " + ("of_example(example)" if chat else "of_pair(*example)"),
        labels="labels" if config.data.completion_only_loss else "whole",
    )
    blocks = [
        _model(config, decisions),
        data,
        *([_CHAT.strip()] if chat and not preference else []),
        *([] if preference else [tokens]),
        _trained_rows(config),
    ]
    blocks.append("set_seed(SEED)")
    if own := _own_parts(config):
        blocks.insert(0, own)
    kind = peft_type_of(config)
    if adapter and kind:
        targets = adapter[1].get("target_modules")
        if isinstance(targets, list) and ALL_LINEAR in targets:
            code = _NORMS if kind.adapts == "norms" else _LINEAR_LAYERS
            blocks[-1] = f"{code}\n\n\n{blocks[-1]}"
            beside = [name for name in targets if name != ALL_LINEAR]
            function = "norms" if kind.adapts == "norms" else "linear_layers"
            adapter[1]["target_modules"] = _Code(f"{function}(model) + {beside!r}")
        elif not kind.excludes_layers and (pattern := excluded_pattern(config)):
            blocks[-1] = f"{_LINEAR_LAYERS}\n\n\n{blocks[-1]}"
            wanted = f" if re.fullmatch({targets!r}, n)"
            if isinstance(targets, list):
                wanted = f" if f'.{{n}}'.endswith({tuple(f'.{name}' for name in targets)!r})"
            chosen = "" if targets == ALL_LINEAR else wanted
            but = f" if not re.fullmatch({pattern!r}, n)"
            adapter[1]["target_modules"] = _Code(f"[n for n in linear_layers(model){chosen}{but}]")
        if eva := adapter[1].get("eva_config"):
            adapter[1]["eva_config"] = _Code(f"EvaConfig({_inline(eva)[2:]})")
        if "total_step" in adapter[1] and config.training.max_steps <= 0:
            blocks[-1] += f"\nsteps = {_steps(config)}"
            adapter[1]["total_step"] = _Code("steps")
            for name, share in (("tinit", 10), ("tfinal", 3)):
                if getattr(config.peft, name) is None:
                    adapter[1][name] = _Code(f"steps // {share}")
        blocks[-1] += f"\nadapter = {_call(*adapter)}"
    recomputes = config.peft.trains_adapter and config.memory.gradient_checkpointing
    if recomputes and not method.takes_peft_config:
        blocks[-1] += "\nmodel.enable_input_require_grads()"
    if adapter and not _trainer_adds_adapter(config, decisions):
        blocks[-1] += "\nmodel = get_peft_model(model, adapter)"
        if kind and kind.prepares(config):
            code = _PREPARED[_start(config)]
            blocks[-1] += "\n" + code.replace("{start}", repr(config.peft.init_lora_weights))
    if old_adapter:
        arguments = f"model, {old_adapter!r}, is_trainable=True"
        blocks[-1] += f"\nmodel = PeftModel.from_pretrained({arguments})"
    blocks[-1] += "\n" + _training(config, decisions)
    body = "\n\n\n".join(blocks) + "\n"
    known = {name: form for name, form in _FORMAT_OF.items() if name != "chat_completion"}
    if all(d.prompt_template and d.completion_template for d in _conversations(config)):
        known = _FORMAT_OF
    reasons = absent(config, known)
    left_out = {path: redact(value_of(config, path), path) for path in reasons}
    of_rows = {f"{field} (rows)": what for field, what in _left_out_of_rows(config)}
    reasons |= dict.fromkeys(of_rows, "only the text of turns is written here")
    if preference and (others := dict(_other_rows(config))):
        reasons |= dict.fromkeys(others, "insert your pairs here, with the columns that TRL reads")
        left_out |= others
    left_out |= of_rows
    head = "".join(
        f"# Ignored by this cell: {path}={shown(value)}; {reasons[path]}.\n"
        for path, value in left_out.items()
    )
    text = Exported(redact_text(f"{head}{_imports(config, decisions, body)}\n\n\n{body}"))
    text.system, text.left_out = "python", left_out
    return text


def _old_adapter(config: Config) -> str | None:
    """Return the folder or Hub name of the adapter that the run continues to train."""
    found = adapter_of(config)
    return str(found.path) if found else config.model.adapter_name_or_path


def _trainer_adds_adapter(config: Config, decisions: Decisions) -> bool:
    kind = peft_type_of(config)
    prepares = kind is not None and kind.prepares(config)
    takes = method_of(config).takes_peft_config
    return takes and not prepares and not keeps_float32(config, decisions)


def _start(config: Config) -> str:
    """Return which module gives a new adapter its initial weights; "" if it is PEFT."""
    kind = peft_type_of(config)
    if _old_adapter(config) or kind is None or not kind.prepares(config):
        return ""
    start = config.peft.init_lora_weights
    return start if start in ("eva", "loftq") else "initial_weights"


def _steps(config: Config) -> str:
    """Return the code of the steps of the run."""
    training, batch = config.training, rows_per_batch(config)
    rows = f"{training.num_samples_each_epoch or 'len(train_rows)'}"
    batches = f"{rows} // {batch}" if config.data.dataloader_drop_last else f"-(-{rows} // {batch})"
    of_epoch = f"max(1, -(-({batches}) // {training.gradient_accumulation_steps}))"
    return f"int(-(-{training.num_train_epochs:g} * {of_epoch} // 1))"


def _own_parts(config: Config) -> str:
    """Return the source of the small modules of nbft that the run uses."""
    model = config.model
    parts = []
    if model.freeze_layers:
        parts.append("models/freezing.py")
    if start := _start(config):
        parts.append(f"models/{start}.py")
    if config.peft.method == "adalora" and not _old_adapter(config):
        parts.append("models/rank_allocation.py")
    if model.attention_dropout is not None or model.hidden_dropout is not None:
        parts.append("models/dropout.py")
    if config.quantization.weight_quantize_algo == "fp8_linear":
        parts.append("models/float8.py")
    if model.auto_class_name == "AutoModelForSeq2SeqLM":
        parts.append("models/seq2seq.py")
    if config.data.packing:
        parts.append("data/packing.py")
    data = config.data
    if data.validation is None and data.split_ratio < 1 and not data.train.stream:
        parts.append("data/holdout.py")
    return "\n\n\n".join(map(_text_of, parts))


def _text_of(module: str) -> str:
    """Return the source of a module, with its docstring as a comment."""
    text = (Path(__file__).parents[1] / module).read_text(encoding="utf-8")
    about, rest = re.fullmatch(r'"""(.*?)"""\n(.*)', text, re.DOTALL).groups()  # type: ignore[union-attr]
    about = re.sub(r"\s*Called by [^.]*(\.\w[^.]*)*\.", "", about)
    said = "".join(f"# {line}".rstrip() + "\n" for line in about.strip().splitlines())
    return said + re.sub(r"^from (__future__|nbft)\b.*\n", "", rest, flags=re.MULTILINE).strip()


def _imports(config: Config, decisions: Decisions, body: str) -> str:
    method = method_of(config)
    lines = ["from __future__ import annotations", ""] if config.data.packing else []
    named = [
        n for n in ("csv", "itertools", "json", "numpy", "pandas", "re", "runpy") if f"{n}." in body
    ]
    lines += [*(f"import {name}" for name in named), "", "import torch"]
    of_datasets = [name for name in _OF_DATASETS if re.search(rf"^[^#]*\b{name}[(.]", body, re.M)]
    names: dict[str, list[str]] = {"datasets": of_datasets}
    of_peft = (
        *(kind.config_class for kind in peft_types().values()),
        *("EvaConfig", "PeftModel", "get_peft_model"),
    )
    names["peft"] = [name for name in of_peft if re.search(rf"\b{name}[(.]", body)]
    if "create_loraplus_optimizer(" in body:
        names["peft.optimizers"] = ["create_loraplus_optimizer"]
    names["transformers"] = [_auto_class(config), "AutoTokenizer", "set_seed"]
    names["transformers"] += ["BitsAndBytesConfig"] if "BitsAndBytesConfig(" in body else []
    if not config.model.load_pretrained_weights:
        names["transformers"].append("AutoConfig")
    if config.callbacks.early_stopping_patience is not None:
        names["transformers"].append("EarlyStoppingCallback")
    places: tuple[str, ...] = (method.trainer, method.arguments)
    if preference := plain(config):
        places = tuple(f"{preference.module}:{preference.name}{n}" for n in ("Config", "Trainer"))
    for place in (*places, *method.collator_code(config, decisions)[1]):
        module, _, name = place.partition(":")
        names.setdefault(module, []).append(name)
    lines += [
        f"from {module} import {', '.join(sorted(of_module))}"
        for module, of_module in names.items()
        if of_module
    ]
    return "\n".join(lines)


_OF_DATASETS = (
    *("Dataset", "IterableDataset", "concatenate_datasets", "interleave_datasets"),
    "load_dataset",
)


def _auto_class(config: Config) -> str:
    """Return the name of the class that loads the model."""
    scores = method_of(config).scores_answers
    return "AutoModelForSequenceClassification" if scores else config.model.auto_class_name


def _model(config: Config, decisions: Decisions) -> str:
    model, dtype = config.model, decisions.dtype.value
    base = base_name(config)
    found = find_local(base, model.model_revision)
    hub_name = ALIASES.get(base, base)
    name = str(found.path) if found and found.source in ("nbft's cache", "folder") else hub_name
    of_hub: dict[str, Any] = {}
    if name == hub_name and model.model_revision:
        of_hub["revision"] = model.model_revision
    if model.trust_remote_code:
        of_hub["trust_remote_code"] = True
    arguments = _inline(of_hub)
    more = model_arguments(config, dtype, decisions.device.value)
    del more["trust_remote_code"]
    is_scorer = method_of(config).scores_answers
    if quantized := more.get("quantization_config"):
        if is_scorer:
            quantized = {**quantized, "llm_int8_skip_modules": [HEAD]}
        more["quantization_config"] = _Code(f"BitsAndBytesConfig({_inline(quantized)[2:]})")
    tokenizer = f"MODEL{arguments}{_inline(model.tokenizer_kwargs)}"
    if model.tokenizer_name is not None:
        of_theirs = {name: value for name, value in of_hub.items() if name != "revision"}
        tokenizer = repr(model.tokenizer_name) + _inline(of_theirs | model.tokenizer_kwargs)
    lines = [
        f"MODEL = {name!r}" + (f"  # {hub_name} on the hub" if name != hub_name else ""),
        f"MAX_LENGTH = {config.data.max_length}",
        f"SEED = {config.training.seed}",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})",
    ]
    if model.pad_token:
        lines += [f"tokenizer.pad_token = {model.pad_token!r}"]
    lines += ["if tokenizer.pad_token is None:", "    tokenizer.pad_token = tokenizer.eos_token"]
    if model.chat_template:
        lines += [f"tokenizer.chat_template = {template_of(model.chat_template)!r}"]
    if model.chat_template_path:
        path = repr(model.chat_template_path)
        lines += [f"with open({path}, encoding='utf-8') as file:"]
        lines += ["    tokenizer.chat_template = file.read()"]
    source, maker = "MODEL" + arguments, "from_pretrained"
    labels = ", num_labels=1" if is_scorer else ""
    if is_scorer or not model.load_pretrained_weights:
        lines += ["set_seed(SEED)"]
    if not model.load_pretrained_weights:
        source, maker = f"AutoConfig.from_pretrained(MODEL{arguments}{labels})", "from_config"
        labels = ""
    more_arguments = f", dtype=torch.{dtype}{_inline(more)}"
    lines += [f"model = {_auto_class(config)}.{maker}({source}{labels}{more_arguments})"]
    if config.quantization.load_in_4bit and decisions.device.value == "cpu":
        lines += [_KEEP_TRAINABLE]
    if config.quantization.weight_quantize_algo == "fp8_linear":
        how = {name: getattr(config.precision, name) for name in _OF_FLOAT8}
        asked = _inline({_OF_FLOAT8[name]: value for name, value in how.items()})
        lines += [f"use_float8(model{asked})"]
    if model.attention_dropout is not None or model.hidden_dropout is not None:
        lines += [f"set_dropout(model, {model.attention_dropout}, {model.hidden_dropout})"]
    return "\n".join(lines)


_OF_FLOAT8 = {"apply_hadamard": "apply_hadamard", "apply_online_actscale_step": "online_steps"}


class _Code(str):
    """Text written without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _data(config: Config) -> str:
    train, validation = config.data.train, config.data.validation
    make = _ANSWERS[method_of(config).sequences] if plain(config) else ""
    if method_of(config).scores_answers:
        make = "scored(row)"
    lines = ["def text(value):", '    return "" if value is None else str(value)', "", ""]
    for number, dataset in enumerate(train.datasets if train.stream else ()):
        lines += [*_streamed(dataset, number), "", ""]
    what = "rows for TRL" if make else "pairs of prompt and completion, or lists of messages"
    lines += [f"train, held_out = [], []  # {what}"]
    if train.stream:
        lines += _stream(config)
    is_mixture = _is_mixture(config) and not train.stream
    lines += ["begins = []"] if is_mixture else []
    splits = validation is None and config.data.split_ratio < 1 and not train.stream
    lines += ["keys = []"] if splits else []
    for dataset in () if train.stream else train.datasets:
        lines += ["begins.append(len(train))"] if is_mixture else []
        lines += _examples(dataset, "train", "train", keeps_keys=splits, make=make)
    kept = "range(len(train))"
    if validation is not None:
        for dataset in validation.datasets:
            lines += _examples(dataset, "validation", "held_out", make=make)
    elif splits:
        kept = "numpy.flatnonzero(~is_held)"
        lines += [
            f"is_held = is_held_out(keys, {config.data.split_ratio!r}, SEED)",
            "held_out = [train[n] for n in numpy.flatnonzero(is_held)]",
        ]
    if is_mixture:
        lines += [
            f"kept, ends = {kept}, [*begins[1:], len(train)]",
            "sets = [[int(n) for n in kept if a <= n < b] for a, b in zip(begins, ends)]",
            "mixture = interleave_datasets(",
            '    [Dataset.from_dict({"number": numbers}) for numbers in sets],',
            *_mixed(config),
            ")",
            'train = [train[n] for n in mixture["number"]]',
        ]
    elif kept != "range(len(train))":
        lines += [f"train = [train[n] for n in {kept}]"]
    text = "\n".join(lines)
    for call, function in (
        *(("scored(row)", SCORED), ("pair(row)", PAIR), ("judged(row)", JUDGED)),
        *(("chosen(", _CHOSEN), ("turns(", _TURNS), ("alpaca_prompt(", _ALPACA), ("said(", _SAID)),
    ):
        if call in text:
            text = function.strip() + "\n\n\n" + text
    return text


def _is_mixture(config: Config) -> bool:
    """Whether rows are sampled from several datasets by their proportions."""
    sets = config.data.train.datasets
    return bool(sets) and sets[0].mixture_proportion is not None


def _mixed(config: Config) -> list[str]:
    """Return the lines of a mixture's proportions, seed and end."""
    block = config.data.train
    return [
        f"    probabilities={[float(d.mixture_proportion or 0) for d in block.datasets]},",
        f"    seed={_seed(config)},",
        f"    stopping_strategy={block.mixture_strategy!r},",
    ]


def _seed(config: Config) -> str:
    return "SEED" if config.data.train.seed is None else str(config.data.train.seed)


def _streamed(dataset: Dataset, number: int) -> list[str]:
    """Return the lines of a generator that reads the examples of a dataset row by row."""
    lines, example, only = _reading(dataset, "train", lazily=True)
    keep = [f"        if not ({only}):", "            continue"] if only else []
    return [
        f"def read_{number}():",
        *(f"    {line}" for line in lines),
        "    for row in rows:",
        *keep,
        f'        yield {{"example": {example}}}',
    ]


def _stream(config: Config) -> list[str]:
    """Return the lines that mix and shuffle the datasets into one stream."""
    sets = len(config.data.train.datasets)
    names = ", ".join(f"read_{number}" for number in range(sets))
    lines = [f"sets = [IterableDataset.from_generator(read) for read in [{names}]]"]
    if sets > 1 and _is_mixture(config):
        lines += ["stream = interleave_datasets(", "    sets,", *_mixed(config), ")"]
    else:
        lines += ["stream = " + ("concatenate_datasets(sets)" if sets > 1 else "sets[0]")]
    if config.data.shuffle:
        buffer = config.data.train.shuffle_buffer_size
        lines += [f"stream = stream.shuffle(seed={_seed(config)}, buffer_size={buffer})"]
    return lines


def _trained_rows(config: Config) -> str:
    """Return the lines that prepare the training rows: shuffled, packed, or streamed."""
    data = config.data
    if data.train.stream:
        made = _STREAMED.strip()
        name = "streamed"
        if data.packing:
            name = "packed"
            made += "\n\n\n" + _PACKED.strip().format(
                buffer=data.train.shuffle_buffer_size, strategy=data.packing_strategy
            )
        return f"{made}\n\n\ntrain_rows = IterableDataset.from_generator({name})"
    make = "Dataset.from_list" if plain(config) else "tokens"
    lines = [f"train_rows = {make}(train)"]
    if data.shuffle:
        order = "numpy.random.default_rng(SEED).permutation(len(train_rows))"
        lines += [f"train_rows = train_rows.select({order})"]
    if data.packing:
        packed = f"packed_dataset(train_rows, MAX_LENGTH, {data.packing_strategy!r})"
        lines += [f"train_rows = {packed}"]
    return "\n".join(lines)


_STREAMED = '''
def streamed():
    """Yield the rows of the stream as tokens, and start again at its end."""
    for epoch in itertools.count():
        stream.set_epoch(epoch)
        yield from rows_of(item["example"] for item in stream)
'''

_PACKED = '''
def packed():
    """Yield the rows of the stream packed, a buffer at a time."""
    rows = streamed()
    while buffer := list(itertools.islice(rows, {buffer})):
        yield from pack(buffer, MAX_LENGTH, {strategy!r})
'''


def _shuffled(rows: str, seed: int | str) -> str:
    return f"[{rows}[n] for n in numpy.random.default_rng({seed}).permutation(len({rows}))]"


def _examples(
    dataset: Dataset, split: str, into: str, *, keeps_keys: bool = False, make: str = ""
) -> list[str]:
    """Return the lines that add the examples of a dataset, and the content keys of its rows.

    Args:
        dataset: The dataset.
        split: train or validation.
        into: The list that they are added to.
        keeps_keys: Whether to keep the content keys.
        make: The expression of an example, if it does not follow from the dataset.
    """
    lines, example, only = _reading(dataset, split, keeps_keys=keeps_keys)
    if make:
        example, only = make, ""
    of_rows = f"for row in rows{f' if {only}' if only else ''}"
    keys = [f"keys += [row[{_KEY!r}] {of_rows}]"] if keeps_keys else []
    return [*lines, f"{into} += [{example} {of_rows}]", *keys]


_ANSWERS = {("chosen", "rejected"): "pair(row)", ("completion",): "judged(row)"}
"""The expression of an example with answers to compare, by a method's sequences."""

_KEY = "content key"
"""A column with the content key of each row, beside its own."""


def _reading(
    dataset: Dataset, split: str, *, lazily: bool = False, keeps_keys: bool = False
) -> tuple[list[str], str, str]:
    """Return the lines that make `rows`, the example of a `row`, and which rows count.

    Args:
        dataset: The dataset.
        split: train or validation.
        lazily: Whether the rows are read one by one, in their order.
        keeps_keys: Whether each row has its content key.
    """
    lines = _rows(dataset, split, lazily=lazily)
    if keeps_keys:
        of_line = "json.loads(line) for line in file if line.strip()"
        if of_line in lines[-1]:
            line = f"{{**json.loads(line), {_KEY!r}: content_key(line.strip().encode())}}"
            lines[-1] = lines[-1].replace(of_line, of_line.replace("json.loads(line)", line, 1))
        else:
            lines += [f"rows = [{{**row, {_KEY!r}: content_key(row)}} for row in rows]"]
    opened, closed = "()" if lazily else "[]"
    if dataset.columns:
        new = ", ".join(f"{new!r}: row[{old!r}]" for new, old in dataset.columns.items())
        lines += [f"rows = {opened}{{**row, {new}}} for row in rows{closed}"]
    if dataset.shuffle and not lazily:
        seed = "SEED" if dataset.seed is None else dataset.seed
        lines += [f"rows = {_shuffled('rows', seed)}"]
    if dataset.sample_count is not None:
        first = f"itertools.islice(rows, {dataset.sample_count})"
        lines += [f"rows = {first if lazily else f'rows[:{dataset.sample_count}]'}"]
    if dataset.input_columns:
        return lines, _of_columns(dataset), ""
    prompt, how_prompt = _part(dataset, "prompt")
    completion, how_completion = _part(dataset, "completion")
    if prompt is None and completion is None:
        name, columns = _format(dataset, split)
        name = _FORMAT_OF.get(dataset.dataset_type) or name
        if name in _CHATS:
            only = "row['label']" if name == "feedback on messages" else ""
            return lines, _CHATS[name], only
        if name == "plain text":
            prompt, completion = "''", "text(row['text'])"
        elif name == "instructions":
            given = "{'input': row.get('context'), **row}" if "context" in columns else "row"
            answer = "output" if "output" in columns else "response"
            prompt, completion = f"alpaca_prompt({given})", f"text(row[{answer!r}])"
        elif found := templates(name, columns):
            prompt, completion = map(_filled, found)
    prompt = prompt or "text(row['prompt'])"
    completion = completion or "text(row['completion'])"
    if dataset.dataset_type == "chat_completion":
        system = "" if dataset.system_template is None else _filled(dataset.system_template)
        call = f"said({prompt}, {completion}{f', {system}' if system else ''})"
        return [*lines, *how_prompt, *how_completion], call, ""
    return [*lines, *how_prompt, *how_completion], f"({prompt}, {completion})", ""


def _of_columns(dataset: Dataset) -> str:
    names = dataset.input_columns
    texts = f"str(row[name]) for name in {names!r} if row.get(name) is not None"
    joined = f"'\\n'.join({texts})"
    if dataset.target_column is None:
        return f"('', {joined})"
    return f"({joined} + '\\n', text(row[{dataset.target_column!r}]))"


def _conversations(config: Config) -> list[Dataset]:
    """Return the datasets that become conversations by templates, or by their columns alone."""
    datasets = (dataset for _, dataset in config.data.named_datasets())
    return [dataset for dataset in datasets if dataset.dataset_type == "chat_completion"]


_FORMAT_OF = {
    "auto": "",
    "seq_completion": "",
    "prompt_completion": "prompt and completion",
    "messages": "messages",
    "sharegpt": "ShareGPT conversations",
    "alpaca": "instructions",
    "text": "plain text",
    "chat_completion": "",
}
"""Formats of rows by data.train.datasets[].dataset_type."""


def _rows(dataset: Dataset, split: str, *, lazily: bool = False) -> list[str]:
    """Return the lines that read the rows of a dataset into `rows`: a list, or one by one."""
    ready = READY.get(dataset.dataset_name or "") if not dataset.subset else None
    if dataset.rows is not None:
        return ["rows = []  # insert your rows here: they were in memory"]
    if dataset.path is not None:
        return _table(dataset) or _file(dataset.path, lazily=lazily)
    if ready:
        own = "train" if (dataset.split or split) == "train" else "test"
        remark = "# a sample shipped with nbft"
        if ready.hub_name:
            whole = _inline(
                {0: ready.hub_name, 1: ready.subset} if ready.subset else {0: ready.hub_name}
            )
            remark += f"; the full dataset: load_dataset({whole.lstrip(', ')})"
        return [remark, *_file(str(sample_path(str(dataset.dataset_name), own)))]
    named = [repr(dataset.dataset_name), *([repr(dataset.subset)] if dataset.subset else [])]
    wanted = dataset.split or ("train" if split == "train" else "validation")
    more = "".join(f", {name}={value!r}" for name, value in dataset.dataset_kwargs.items())
    return [_loaded(f"{', '.join(named)}, split={wanted!r}{more}", lazily=lazily)]


def _loaded(arguments: str, *, lazily: bool) -> str:
    if lazily:
        return f"rows = load_dataset({arguments}, streaming=True)"
    return f"rows = list(load_dataset({arguments}))"


def _table(dataset: Dataset) -> list[str]:
    """Return the lines that read a workbook, or a text table that is not as its ending promises."""
    path = resolve(str(dataset.path), None)
    if path.suffix.lower() not in tables.FORMATS:
        return []
    try:
        table = tables.read_table(path, dataset.subset)
    except (ValueError, OSError):  # the plan says why
        return []
    if table.sheet:
        how = f"{table.sheet!r}, header=None, dtype=str, na_filter=False, engine='calamine'"
        read = [
            "# Dates and truth values may be written differently than in nbft.",
            f"cells = pandas.read_excel({dataset.path!r}, {how}).values.tolist()",
        ]
    elif table.remarks:
        read = [
            f"with open({dataset.path!r}, encoding={table.encoding!r}, newline='') as file:",
            f"    cells = list(csv.reader(file, delimiter={table.separator!r}))",
        ]
    else:
        return []
    cells = "for name, cell in zip(names, row) if name"
    rows = f"for row in cells[{table.skipped_rows}:] if any(row)"
    return [*read, f"names = {table.names!r}", f"rows = [{{name: cell {cells}}} {rows}]"]


def _file(path: str, *, lazily: bool = False) -> list[str]:
    ending = path.rsplit(".", 1)[-1].lower()
    if ending == "parquet":
        return [_loaded(f"'parquet', data_files={path!r}, split='train'", lazily=lazily)]
    opened = f"open({path!r}, encoding='utf-8-sig')"
    if ending in ("csv", "tsv"):
        tabs = ", delimiter='\\t'" if ending == "tsv" else ""
        opened = f"{opened[:-1]}, newline='')"
        read = f"csv.DictReader(file{tabs})"
        if lazily:
            return [f"rows = {read.replace('file', opened)}"]
        return [f"with {opened} as file:", f"    rows = list({read})"]
    if ending == "json" and not _begins_with_an_object(path):
        return [f"with {opened} as file:", "    rows = json.load(file)"]
    if lazily:
        return [f"rows = (json.loads(line) for line in {opened} if line.strip())"]
    read = "[json.loads(line) for line in file if line.strip()]"
    return [f"with {opened} as file:", f"    rows = {read}"]


def _begins_with_an_object(path: str) -> bool:
    """Whether a .json file holds JSON Lines."""
    try:
        with resolve(path, None).open(encoding="utf-8-sig") as file:
            return file.read(1000).lstrip().startswith("{")
    except (OSError, ValueError):
        return False


def _format(dataset: Dataset, split: str) -> tuple[str, list[str]]:
    """Return the format and columns of local rows; "" and [] for others."""
    if dataset.rows is None and dataset.path is None:
        return "", []
    try:
        rows = load_rows(dataset, split, "data")
    except DataError:
        return "", []
    columns = columns_of(rows)
    known = recognise(columns, rows[0])
    return known.name if known else "", columns


def _left_out_of_rows(config: Config) -> Iterator[tuple[str, str]]:
    """Yield what the conversations of local rows have that the cell ignores, with their dataset."""
    for field, dataset in config.data.named_datasets():
        if dataset.path is None and dataset.rows is None:
            continue
        with contextlib.suppress(DataError):
            rows = load_rows(dataset, field.split(".")[1], field)
            known = recognise(columns_of(rows), rows[0])
            if known is not None and known.name in _CHATS:
                some = itertools.islice(rows, _ROWS_LOOKED_AT)
                found = {what for row in some for what in _more_than_text(known, row)}
                if found:
                    yield field, ", ".join(sorted(found))


def _other_rows(config: Config) -> Iterator[tuple[str, str]]:
    """Yield datasets whose rows the cell cannot make pairs of, with their format."""
    for field, dataset in config.data.named_datasets():
        name, columns = _format(dataset, field.split(".")[1])
        is_text = {"chosen", "rejected"} <= {*columns} and not {*_GIVEN} & {*columns}
        if columns and (name not in ROWS or is_text):
            yield f"{field} (rows)", "pairs without a prompt" if name in ROWS else name


_GIVEN = ("prompt", "conversations", "messages")
_ROWS_LOOKED_AT = 1000
_MORE = {"tool_calls": "tool calls", "reasoning_content": "reasoning", "trained": "untrained turns"}


def _more_than_text(known: Format, row: Mapping[str, Any]) -> Iterator[str]:
    with contextlib.suppress(RowError):
        example = known.make(row)
        yield from (_MORE[key] for turn in example.messages for key in turn if key in _MORE)
        if example.tools:
            yield "tools"
        if row.get("system") or row.get("system_prompt"):
            yield "system prompts in a column"


def _part(dataset: Dataset, part: str) -> tuple[str | None, list[str]]:
    """Return the expression of a prompt or completion, and the lines that must precede it."""
    template = getattr(dataset, f"{part}_template")
    function = getattr(dataset, f"{part}_func")
    ready = READY.get(dataset.dataset_name or "") if dataset.path is None else None
    if ready and template is None and function is None:
        template = getattr(ready, f"{part}_template", "") or None
        function = getattr(ready, f"{part}_func", "") or None
    if template is not None:
        filled = _filled(template) or "''"
        if part == "prompt" and dataset.no_input_template is not None:
            short = _filled(dataset.no_input_template) or "''"
            filled = f"({filled} if text(row.get('input')) else {short})"
        return filled, []
    if function == "nbft.data.ready:alpaca_prompt":
        return "alpaca_prompt(row)", []
    if function:
        where, _, name = function.rpartition(":")
        for path in (where, f"{where}.py"):
            if path.endswith(".py") and resolve(path, None).is_file():
                return f"{name}(row)", [f"{name} = runpy.run_path({path!r})[{name!r}]"]
        return f"{name}(row)", [f"from {where} import {name}"]
    return None, []


def _filled(template: str) -> str:
    """Write a template as a concatenation of text and columns.

    >>> _filled("Q: {question} {{1}}")
    "'Q: ' + text(row.get('question')) + ' {1}'"
    """
    parts: list[str] = []
    words = ""
    for literal, name in parsed_template(template):
        words += literal
        if name is not None:
            parts += [*([repr(words)] if words else []), f"text(row.get({column_of(name)!r}))"]
            words = ""
    return " + ".join([*parts, *([repr(words)] if words else [])])


_ALPACA = '''
def alpaca_prompt(row):
    """Return the prompt of an instruction, with its input if there is one."""
    given = f"### Input:\\n{row['input']}\\n\\n" if row.get("input") else ""
    return f"### Instruction:\\n{row['instruction']}\\n\\n{given}### Response:\\n"
'''

_CHATS = {
    "messages": "row['messages']",
    "feedback on messages": "row['messages']",
    "ShareGPT conversations": "turns(row['conversations'])",
    "prompt and completion in messages": "turns(row['prompt']) + turns(row['completion'])",
    "preference pairs": "chosen(row)",
}
"""The expression for the messages of a row, by format."""

_TURNS = '''
def turns(value):
    """Return turns with any role names as messages."""
    roles = {"human": "user", "gpt": "assistant", "function_call": "assistant"}
    roles |= {"observation": "tool", "function_response": "tool"}
    found = []
    for turn in value if isinstance(value, list) else [value]:
        if isinstance(turn, str):
            turn = {"role": "assistant", "content": turn}
        role = turn.get("role") or roles.get(turn["from"], turn["from"])
        found.append({"role": role, "content": turn.get("content") or turn.get("value", "")})
    return found
'''

_CHOSEN = '''
def chosen(row):
    """Return the better answer of a pair, with its prompt."""
    given = row.get("conversations") or row.get("messages") or row.get("prompt") or []
    if isinstance(given, str) and isinstance(row["chosen"], str):
        return given, row["chosen"]
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    before, answer = turns(given), turns(row["chosen"])
    return answer if answer[: len(before)] == before else before + answer
'''

_SAID = '''
def said(prompt, completion, system=""):
    """Return a question and its answer as messages."""
    turns = [("system", system)] * bool(system) + [("user", prompt), ("assistant", completion)]
    return [{"role": role, "content": content} for role, content in turns]
'''

_CHAT = '''
def of_messages(messages):
    """Tokenize a conversation; only the assistant's turns are trained on."""
    whole, labels, done = [], [], ""
    for n, message in enumerate(messages):
        if message["role"] == "assistant":
            asked = tokenizer.apply_chat_template(
                messages[:n], tokenize=False, add_generation_prompt=True
            )
            answered = tokenizer.apply_chat_template(messages[: n + 1], tokenize=False)
            for piece, is_trained in ((asked[len(done) :], False), (answered[len(asked) :], True)):
                found = ids(piece, special=False)
                whole += found
                labels += found if is_trained else [-100] * len(found)
            done = answered
    if tokenizer.eos_token_id not in whole[-2:]:
        whole.append(tokenizer.eos_token_id)
        labels.append(tokenizer.eos_token_id)
    return whole, labels


def of_example(example):
    """Tokenize messages, or a pair of prompt and completion."""
    return of_messages(example) if isinstance(example, list) else of_pair(*example)
'''

_TOKENS = '''
ADDS_AN_END = tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id


def ids(text, special=True):
    """Tokenize a text, without the end token that some tokenizers add."""
    found = tokenizer(text, add_special_tokens=special)["input_ids"]
    return found[:-1] if special and ADDS_AN_END else found


def of_pair(prompt, completion):
    """Tokenize a prompt and its completion; -100 marks what is not trained on."""
    before, whole = ids(prompt), ids(prompt + completion)
    if whole[: len(before)] != before:  # a token would cross the boundary: tokenize them apart
        whole = before + ids(completion, special=False)
    whole = whole + [tokenizer.eos_token_id]
    return whole, [-100] * len(before) + whole[len(before) :]


def rows_of(examples):
    """Yield examples as tokens, without those that have nothing to train on."""
    for example in examples:
        {whole}
        labels = {labels}[:MAX_LENGTH]
        if any(label != -100 for label in labels[1:]):
            yield {{"input_ids": whole[:MAX_LENGTH], "labels": labels}}


def tokens(examples):
    """Return examples as a dataset of tokens."""
    return Dataset.from_list(list(rows_of(examples)))
'''


_LINEAR_LAYERS = """def linear_layers(model):
    head = model.get_output_embeddings()
    named = model.named_modules()
    return [name for name, m in named if isinstance(m, torch.nn.Linear) and m is not head]"""
_NORMS = """def norms(model):
    kinds = (torch.nn.Linear, torch.nn.Embedding)
    named = [(name, m) for name, m in model.named_modules() if not isinstance(m, kinds)]
    weights = [(name, getattr(m, "weight", None)) for name, m in named]
    return [name for name, weight in weights if weight is not None and weight.dim() == 1]"""
_PREPARED = {
    "eva": "use_eva(model, train_rows, tokenizer.pad_token_id)",
    "loftq": "from huggingface_hub import snapshot_download\n\n"
    "folder = Path(MODEL) if Path(MODEL).is_dir() else Path(snapshot_download(MODEL))\n"
    "use_loftq(model, folder)",
    "initial_weights": "use_part_of_weights(model, {start})\ninitial = adapter_matrices(model)",
}
_FLOAT32_ADAPTER = """def as_narrow_as_input(layer, given, y):
    return y.to(given[0].dtype) if y.dtype.itemsize > given[0].dtype.itemsize else y


for layer in trainer.model.modules():  # PEFT's layers return float32 here
    norm = getattr(layer, "ln_tuning_layers", {"default": None})["default"]
    if norm is not None or hasattr(layer, "base_layer"):
        (norm or layer).register_forward_hook(as_narrow_as_input)
    if norm is not None:
        norm.float()"""
_KEEP_TRAINABLE = """for module in model.modules():
    if hasattr(module, "support_avx512bf16_for_cpu"):  # after an evaluation it has no gradient
        module.support_avx512bf16_for_cpu = False"""
_KEEP_TYPES = """# TRL makes adapters on quantised weights bfloat16.
in_float32 = {name: p.data for name, p in model.named_parameters() if p.requires_grad}"""
_GIVE_TYPES_BACK = """for name, p in trainer.model.named_parameters():
    if name in in_float32:
        p.data = in_float32[name]"""
_SCALED_FLOAT16 = """for p in trainer.model.parameters():
    if p.requires_grad:  # gradients of float16 weights cannot be unscaled
        p.data = p.data.float()
embeddings = trainer.model.get_input_embeddings()  # float16 sums of layers could overflow
embeddings.register_forward_hook(lambda *call: call[-1].float())"""


def _training(config: Config, decisions: Decisions) -> str:
    """Return the lines from the arguments to the saved adapter."""
    method, is_adapter = method_of(config), config.peft.trains_adapter
    arguments = training_arguments(config, decisions)
    always = method.trainer_arguments(config, decisions)
    names, make = (method.arguments_name, method.trainer_name), "tokens"
    if preference := plain(config):
        names = (f"{preference.name}Config", f"{preference.name}Trainer")
        arguments = {k: v for k, v in arguments.items() if k not in _NOT_OF_TRL}
        arguments, make = arguments | preference.arguments, "Dataset.from_list"
        always = preference.arguments
    kept = {
        k: v
        for k, v in arguments.items()
        if k not in _ONLY_IN_A_RUN and (v is not None or k in _EVEN_IF_NONE & {*always})
    }
    cuts = config.data.split_ratio < 1 and not config.data.train.stream
    has_held_out = config.data.validation is not None or cuts
    if not has_held_out:
        kept |= {"eval_strategy": "no", "eval_on_start": False}
    lines = [_KEEP_TYPES] if keeps_float32(config, decisions) else []
    if preference and preference.name in ("CPO", "ORPO"):
        lines += [WITHOUT_BEGIN]
    lines += [
        f"arguments = {_call(names[0], {'output_dir': 'checkpoints', **kept})}",
        f"trainer = {names[1]}(",
        "    model=model,",
        "    args=arguments,",
        "    train_dataset=train_rows,",
        f"    eval_dataset={f'{make}(held_out)' if has_held_out else 'None'},",
        "    processing_class=tokenizer,",
    ]
    if is_adapter and _trainer_adds_adapter(config, decisions) and not _old_adapter(config):
        lines += ["    peft_config=adapter,"]
    if collator := method.collator_code(config, decisions)[0]:
        lines += [f"    data_collator={collator},"]
    if (patience := config.callbacks.early_stopping_patience) is not None:
        threshold = config.callbacks.early_stopping_threshold
        lines += [f"    callbacks=[EarlyStoppingCallback({patience}, {threshold})],"]
    lines += [")"]
    if keeps_float32(config, decisions):
        lines += [_GIVE_TYPES_BACK]
    if decisions.scales_float16:
        lines += [_SCALED_FLOAT16]
    kind = None if _old_adapter(config) else peft_type_of(config)
    if kind is not None and kind.is_float32 and decisions.dtype.value.endswith("16"):
        lines += [_FLOAT32_ADAPTER]
    if kind is not None and kind.name == "adalora":
        lines += ["trainer.add_callback(RankAllocation(trainer.model))"]
        lines += [f"keep_orthogonal(trainer, {config.peft.orth_reg_weight})"]
    model, ratio = config.model, config.peft.loraplus_lr_ratio
    if model.freeze_layers:
        lines += [f"freeze(trainer.model, {model.freeze_layers!r})"]
    if config.peft.method == "lora" and ratio != 1:
        lines += [
            "kind, of_optimizer = trainer.get_optimizer_cls_and_kwargs(arguments, trainer.model)",
            "trainer.optimizer = create_loraplus_optimizer(",
            f"    trainer.model, kind, loraplus_lr_ratio={ratio!r},",
            "    loraplus_weight_decay=arguments.weight_decay, **of_optimizer,",
            ")",
        ]
    if (steps := model.dropout_warmup_steps) is not None:
        shares = f"{model.attention_dropout}, {model.hidden_dropout}"
        lines += [f"trainer.add_callback(DropoutWarmup({shares}, {steps}))"]
    folder = "adapter" if is_adapter else "model"
    lines += ["trainer.train()", f"trainer.save_model({folder!r})"]
    if _start(config) == "initial_weights":
        lines += [f"to_plain_lora(Path({folder!r}), initial)  # for the unchanged base model"]
    return "\n".join(lines)


def _inline(arguments: dict[Any, Any]) -> str:
    """Write arguments after others; a number as name marks a positional argument."""
    return "".join(
        f", {name}={value!r}" if isinstance(name, str) else f", {value!r}"
        for name, value in arguments.items()
    )


def _call(name: str, arguments: dict[str, Any]) -> str:
    inner = "".join(
        f"    {key}={pprint.pformat(value, width=80, compact=True)},\n"
        for key, value in arguments.items()
    )
    return f"{name}(\n{inner})"
