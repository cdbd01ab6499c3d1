"""Settings of the data: its source, prompt format, tokenization and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import SkipValidation, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nbft import registry
from nbft.config.base import Section, expert_setting, key_of, setting


class Dataset(Section):
    """A dataset, and how its rows become prompts and completions."""

    path: str | None = setting(
        label="Data file",
        help="JSON array, JSON Lines, CSV, Excel (.xlsx), .ods or Parquet file. Takes precedence "
        "over dataset_name.",
        source="datasets.load_dataset data_files",
        level="basic",
        why="The rows decide what the model learns, more than any other setting. A few hundred good "
        "rows of the task that you care about teach more than many doubtful ones.",
    )
    dataset_name: str | None = setting(
        label="Dataset",
        help="Dataset name on the hub, or a bundled sample: alpaca, samsum, gsm8k, grammar, larger_number.",
        source="TRL ScriptArguments.dataset_name",
        level="basic",
        why="Change it to train on a dataset that others have published. The bundled samples are for "
        "trying things out: they are small and need no network.",
        suggestions=(
            "alpaca",
            "samsum",
            "gsm8k",
            "grammar",
            "larger_number",
            "yahma/alpaca-cleaned",
        ),
    )
    rows: SkipValidation[Any] = expert_setting(
        help="Rows in memory: a list of dicts or a datasets.Dataset. Available from Python only.",
        source="nbft",
        exclude=True,
        repr=False,
    )
    subset: str | None = setting(
        help="Sheet of a workbook in path, or configuration of a hub dataset, such as main for "
        "gsm8k.",
        source="datasets.load_dataset name",
    )
    split: str | None = setting(
        help="Split to use; when empty, train for training and test or validation for evaluation.",
        source="datasets.load_dataset split",
    )
    dataset_type: key_of(registry.datasets) = expert_setting(  # type: ignore[valid-type]
        "auto",
        help="How a row becomes prompt and completion; auto uses templates, dataset name or "
        "columns.",
        source="QEfficient dataset.dataset_type; ERNIEKit train_dataset_type",
        why="chat_completion makes a conversation for the model's chat template: the prompt is "
        "the user's turn, the completion the answer. stanford_alpaca is the text of Stanford "
        "Alpaca with its opening sentences, alpaca_chat the same as a conversation, alpaca the "
        "short text without them. Register your own with nbft.registry.datasets.register.",
    )
    prompt_template: str | None = setting(
        help="Prompt text with column names in braces: {question}.",
        source="QEfficient dataset.prompt_template",
        level="basic",
        why="The model learns to answer this very text, so it must be asked in the same way later. "
        "Write {{ and }} for literal braces. The quoted form {'question'} works too.",
    )
    completion_template: str | None = setting(
        help="Text to train on, with column names in braces: {answer}.",
        source="QEfficient dataset.completion_template",
        level="basic",
        why="The model is trained to write this, and nothing else. Change it if the answer consists "
        "of several columns, or should end in a certain way.",
    )
    no_input_template: str | None = expert_setting(
        help="Prompt text of rows whose column input is empty or missing, instead of "
        "prompt_template.",
        source="Axolotl datasets[].type.no_input_format",
    )
    system_template: str | None = expert_setting(
        help="System prompt, with column names in braces: {system}. Put before the prompt, or a turn "
        "of its own in a conversation; left out where a column is empty.",
        source="Axolotl datasets[].type.system_format",
    )
    system_prompt: str | None = expert_setting(
        help="System prompt of rows that have none.",
        source="LLaMA-Factory default_system; Axolotl datasets[].type.system_prompt",
    )
    history_column: str | None = expert_setting(
        help="Column with the earlier turns of a row, for chat_completion: pairs of prompt and "
        "answer.",
        source="LLaMA-Factory dataset_info.json columns.history",
    )
    message_property_mappings: dict[str, str] = expert_setting(
        help="Names of role and content in the turns of a conversation: {role: who, content: text}.",
        source="Axolotl datasets[].message_property_mappings; LLaMA-Factory tags",
        default_factory=dict,
    )
    roles: dict[str, list[str]] = expert_setting(
        help="Names of the speakers in the turns, by role: {user: [person], assistant: [helper]}.",
        source="Axolotl datasets[].roles; LLaMA-Factory tags",
        default_factory=dict,
    )
    train_target: Literal["all_assistant_turns", "final_assistant_turn"] = expert_setting(
        "all_assistant_turns",
        help="Which answers of a conversation are trained on: all of them, or the last one only.",
        source="Oumi data.train.train_target; LLaMA-Factory mask_history",
    )
    prompt_func: str | None = setting(
        help="Function from a row to its prompt: path/to/file:function or package.module:function.",
        source="QEfficient dataset.prompt_func",
        why="Runs your code. Use it instead of prompt_template if the prompt depends on the row.",
    )
    completion_func: str | None = setting(
        help="Function from a row to its completion, instead of completion_template.",
        source="QEfficient dataset.completion_func",
    )
    columns: dict[str, str] = setting(
        help="Renames columns: {prompt: question, completion: answer}.",
        source="nbft",
        default_factory=dict,
    )
    input_columns: list[str] = expert_setting(
        help="Columns with the text, joined by line breaks: the prompt if target_column is set, "
        "otherwise the text to train on.",
        source="QEfficient dataset.input_columns",
        default_factory=list,
    )
    target_column: str | None = expert_setting(
        help="Column with the answer to the input_columns, such as a label.",
        source="QEfficient dataset.target_column",
    )
    dataset_kwargs: dict[str, Any] = expert_setting(
        help="Additional arguments of datasets.load_dataset; they name the files when "
        "dataset_name is json, csv, parquet or text.",
        source="Oumi data.train.datasets[].dataset_kwargs",
        default_factory=dict,
    )
    trust_remote_code: bool = expert_setting(
        False,
        help="Run code that comes with a dataset. Not supported: datasets 4 no longer runs any.",
        source="Oumi data.train.datasets[].trust_remote_code",
    )
    sample_count: int | None = setting(
        label="Rows to use",
        help="Use only this many rows; all when empty.",
        source="Oumi data.train.datasets[].sample_count",
        unit="rows",
        ge=1,
    )
    shuffle: bool = setting(
        False,
        help="Shuffle before taking sample_count rows.",
        source="Oumi data.train.datasets[].shuffle",
    )
    seed: int | None = setting(
        help="Seed for that shuffle; training.seed when empty.",
        source="Oumi data.train.datasets[].seed",
        ge=0,
    )
    mixture_proportion: float | None = setting(
        label="Share of the mixture",
        help="Share of this dataset in a mixture; needed for every dataset of the split, total 1.",
        source="Oumi data.train.datasets[].mixture_proportion",
        gt=0,
        le=1,
        why="Without it, every row of every dataset is used once, so larger datasets weigh more.",
    )

    @field_validator("roles", mode="before")
    @classmethod
    def _one_name_may_stand_alone(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {role: [n] if isinstance(n, str) else n for role, n in value.items()}

    @field_validator("trust_remote_code")
    @classmethod
    def _no_code_of_datasets(cls, value: bool) -> bool:
        if value:
            raise PydanticCustomError(
                "nbft",
                "is not supported: datasets 4 and later run no code of a dataset. Use its Parquet "
                "files, or a copy without code.",
            )
        return value

    @property
    def called(self) -> str:
        """What people call it: by what is read, which a name beside a file is not."""
        if self.rows is not None or (self.path is None and self.dataset_name is None):
            return "the rows in memory"
        return Path(self.path).name if self.path else str(self.dataset_name)


class Split(Section):
    """The datasets of one split."""

    datasets: list[Dataset] = setting(
        help="Datasets to use: one after the other, or mixed by their mixture_proportion.",
        source="Oumi data.train.datasets",
        default_factory=list,
    )
    mixture_strategy: Literal["first_exhausted", "all_exhausted"] = setting(
        "first_exhausted",
        help="When a mixture ends: at the first dataset that runs out, or once all have, "
        "repeating rows of the smaller ones.",
        source="Oumi data.train.mixture_strategy",
    )
    stream: bool = setting(
        False,
        help="Read rows during training instead of beforehand; requires training.max_steps.",
        source="Oumi data.train.stream",
        why="For datasets too large to read in advance. Their size is unknown, so no rows can be "
        "held out: specify the validation data yourself.",
    )
    seed: int | None = expert_setting(
        help="Seed for mixing and for shuffling a stream; training.seed when empty.",
        source="Oumi data.train.seed",
        ge=0,
        le=2**32 - 1,
    )
    shuffle_buffer_size: int = setting(
        1000,
        help="Buffer size for shuffling a stream.",
        unit="rows",
        ge=1,
        source="datasets.IterableDataset.shuffle buffer_size",
    )

    @model_validator(mode="after")
    def _proportions_add_up(self) -> Split:
        given = [d.mixture_proportion for d in self.datasets if d.mixture_proportion is not None]
        if not given:
            return self
        if len(given) < len(self.datasets):
            raise PydanticCustomError(
                "nbft",
                f"{len(given)} of {len(self.datasets)} datasets have a mixture_proportion. Set it "
                "for all of them, or for none.",
            )
        if abs(sum(given) - 1) > 1e-6:
            raise PydanticCustomError(
                "nbft",
                f"the mixture_proportion values add up to {sum(given):g}, not 1. Use "
                f"{', '.join(f'{share / sum(given):.4g}' for share in given)}.",
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_dataset_may_stand_alone(cls, value: Any) -> Any:
        return _block_written_out(value) if isinstance(value, dict) else value


class Data(Section):
    """The data, and how it is tokenized and batched."""

    train: Split = setting(help="Training data.", source="Oumi data.train", default_factory=Split)
    validation: Split | None = setting(
        help="Validation data; held out from the training data by split_ratio when empty.",
        source="Oumi data.validation",
    )
    test: Split | None = setting(
        help="Test data, used only for the final scores.",
        source="Oumi data.test",
    )
    split_ratio: float = setting(
        0.9,
        label="Training share",
        help="Share of the rows to train on if no validation data is given; the rest is held out.",
        why="Drawn by training.seed and by what each row holds: equal rows stay together, and a row "
        "stays where it is when others are fixed, added or removed. With few rows the share is "
        "approximate.",
        source="QEfficient dataset.split_ratio (there 0.8)",
        gt=0,
        le=1,
        usual=(0.8, 0.99),
    )
    max_length: int = setting(
        1024,
        help="Maximum length of an example; longer ones are truncated.",
        unit="tokens",
        ge=8,
        level="basic",
        source="TRL SFTConfig.max_length",
        why="Memory and time grow with it. The check reports how many rows are truncated.",
    )
    completion_only_loss: bool = setting(
        True,
        label="Train on completions only",
        help="Compute the loss on the completion only; false includes the prompt.",
        source="TRL SFTConfig.completion_only_loss",
    )
    shuffle: bool = setting(
        True,
        help="Shuffle the training rows with training.seed at the start and before every epoch.",
        source="transformers Trainer",
    )
    padding_free: bool | None = setting(
        label="Padding-free training",
        help="Join the rows of a batch into one sequence without padding; rows do not attend to "
        "each other. Depends on the model when empty.",
        source="TRL SFTConfig.padding_free",
        why="Avoids computing on padding: nearly twice as fast on a CPU when lengths vary.",
    )
    packing: bool = setting(
        False,
        help="Pack several rows into each sequence of max_length; rows do not attend to each "
        "other.",
        source="TRL SFTConfig.packing",
        why="No padding, and batches of equal size. Steps cover more rows, so there are fewer of "
        "them.",
    )
    packing_strategy: Literal["bfd", "greedy", "wrapped"] = setting(
        "bfd",
        help="How rows are packed: bfd by best fit, greedy in their order, wrapped by joining all "
        "rows and cutting them wherever a sequence is full.",
        source="TRL SFTConfig.packing_strategy",
    )
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = setting(
        "random",
        label="Sampling strategy",
        help="Order of the rows in an epoch; group_by_length batches rows of similar length.",
        source="transformers TrainingArguments.train_sampling_strategy",
    )
    max_tokens_per_batch: int | None = setting(
        help="Fill each batch with as many rows as fit into this many tokens, instead of "
        "training.per_device_train_batch_size.",
        unit="tokens",
        ge=8,
        source="fairseq --max-tokens",
        why="Steps of equal size: many short rows or a few long ones, with predictable memory use.",
    )
    length_column_name: str = expert_setting(
        "input_ids",
        label="Length column",
        help="Length used by group_by_length: input_ids, labels, or a column of the dataset (its "
        "number, or the length of its text).",
        source="QEfficient dataset.length_column_name; transformers length_column_name",
    )
    collate_fn: key_of(registry.collators) = expert_setting(  # type: ignore[valid-type]
        "dynamic_padding",
        help="Collator that builds a batch; dynamic_padding pads to the longest row in the batch.",
        source="QEfficient dataset.collate_fn; Oumi data.train.collator_name",
        why="Register your own collators with nbft.registry.collators.register.",
    )
    pad_to_multiple_of: int | None = setting(
        label="Pad to a multiple of",
        help="Pad every batch to a multiple of this length.",
        unit="tokens",
        ge=1,
        source="TRL SFTConfig.pad_to_multiple_of",
    )
    dataset_num_proc: int | None = setting(
        label="Tokenizing processes",
        help="Number of processes for tokenization, at most one for 1,000 rows; depends on the number of "
        "rows when empty.",
        ge=1,
        le=128,
        source="TRL SFTConfig.dataset_num_proc",
    )
    dataloader_num_workers: int = setting(
        0,
        label="Data loader workers",
        help="Number of processes that prepare batches; 0 uses the training process.",
        ge=0,
        le=128,
        source="transformers TrainingArguments.dataloader_num_workers",
    )
    dataloader_prefetch_factor: int | None = expert_setting(
        help="Batches that each data loader worker prepares in advance.",
        unit="batches",
        ge=1,
        source="transformers TrainingArguments.dataloader_prefetch_factor",
    )
    dataloader_persistent_workers: bool = expert_setting(
        False,
        help="Keep data loader workers alive between epochs.",
        source="transformers TrainingArguments.dataloader_persistent_workers",
    )
    dataloader_pin_memory: bool = expert_setting(
        True,
        help="Load batches into pinned memory for faster transfer to a GPU; no effect on a CPU.",
        source="transformers TrainingArguments.dataloader_pin_memory",
    )
    dataloader_drop_last: bool = expert_setting(
        False,
        help="Drop the last batch of an epoch if it is incomplete.",
        source="transformers TrainingArguments.dataloader_drop_last",
    )

    def splits(self) -> dict[str, Split]:
        """Return the splits that are set: train, and validation and test if given."""
        named = {name: getattr(self, name) for name in SPLITS}
        return {name: split for name, split in named.items() if split is not None}

    def named_datasets(self) -> list[tuple[str, Dataset]]:
        """Return every dataset with its dotted path in the config."""
        return [
            (f"data.{name}.datasets[{number}]", dataset)
            for name, split in self.splits().items()
            for number, dataset in enumerate(split.datasets)
        ]

    @model_validator(mode="before")
    @classmethod
    def _one_dataset_may_stand_alone(cls, value: Any) -> Any:
        """Move the keys of a dataset directly under `data` to data.train.datasets."""
        if not isinstance(value, dict):
            return value
        own = {k: v for k, v in value.items() if k in _DATASET_KEYS and k not in cls.model_fields}
        if own and value.get("train"):
            raise PydanticCustomError(
                "nbft",
                f"a dataset is set both directly under data ({', '.join(own)}) and under "
                "data.train. Keep one of them.",
            )
        return written_out(value)


SPLITS = ("train", "validation", "test")
_DATASET_KEYS = tuple(Dataset.model_fields)


def written_out(data: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of `data` with a dataset directly under it moved to data.train.datasets.

    >>> written_out({"dataset_name": "alpaca", "max_length": 256})
    {'max_length': 256, 'train': {'datasets': [{'dataset_name': 'alpaca'}]}}
    """
    own = {k: v for k, v in data.items() if k in _DATASET_KEYS and k not in Data.model_fields}
    if own and not data.get("train"):
        data = {**{k: v for k, v in data.items() if k not in own}, "train": {"datasets": [own]}}
    for split in SPLITS:
        block = data.get(split)
        if isinstance(block, dict):
            data = {**data, split: _block_written_out(block)}
    return data


def path_written_out(path: str) -> str:
    """Return the full path of a setting of a dataset that is written directly under `data` or a split.

    >>> path_written_out("data.path"), path_written_out("data.test.path")
    ('data.train.datasets[0].path', 'data.test.datasets[0].path')
    """
    *place, name = path.split(".")
    section, split = place[:1], place[1:]
    block = Split if split else Data
    if section != ["data"] or split not in ([], *([each] for each in SPLITS)):
        return path
    if name not in Dataset.model_fields or name in block.model_fields:
        return path
    return f"data.{(split or ['train'])[0]}.datasets[0].{name}"


def _block_written_out(block: dict[str, Any]) -> dict[str, Any]:
    """Return a split with the keys of one dataset moved to its datasets.

    >>> _block_written_out({"path": "a.jsonl", "seed": 1, "stream": True})
    {'stream': True, 'datasets': [{'path': 'a.jsonl', 'seed': 1}]}
    """
    of_split = Split.model_fields.keys()
    if "datasets" in block or not block.keys() & (set(_DATASET_KEYS) - of_split):
        return block
    kept = {k: v for k, v in block.items() if k in of_split and k not in _DATASET_KEYS}
    return {**kept, "datasets": [{k: v for k, v in block.items() if k not in kept}]}
