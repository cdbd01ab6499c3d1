"""Settings of the data: where the rows are, how they become prompts, how they are tokenised."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SkipValidation, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nbft import registry
from nbft.config.base import Section, key_of, setting


class Dataset(Section):
    """One set of rows and how its rows become a prompt and a completion."""

    path: str | None = setting(
        label="Data file",
        help="File of rows: JSON array, JSON Lines, CSV or Parquet. Wins over dataset_name.",
        source="datasets.load_dataset data_files",
        level="basic",
    )
    dataset_name: str | None = setting(
        label="Dataset",
        help="Name on the hub, or a bundled sample: alpaca, samsum, gsm8k, grammar.",
        source="TRL ScriptArguments.dataset_name",
        level="basic",
        suggestions=("alpaca", "samsum", "gsm8k", "grammar", "yahma/alpaca-cleaned"),
    )
    rows: SkipValidation[Any] = setting(
        help="Rows in memory: a list of dicts or a datasets.Dataset. Only from Python.",
        source="nbft",
        level="expert",
        exclude=True,
        repr=False,
    )
    subset: str | None = setting(
        help="Configuration of a hub dataset, for example main for gsm8k.",
        source="datasets.load_dataset name",
    )
    split: str | None = setting(
        help="Split to take; train for training and test or validation for evaluation when empty.",
        source="datasets.load_dataset split",
    )
    dataset_type: key_of(registry.datasets) = setting(  # type: ignore[valid-type]
        "auto",
        help="How a row becomes a prompt and a completion; auto goes by templates, a ready name or "
        "the columns.",
        source="QEfficient dataset.dataset_type; ERNIEKit train_dataset_type",
        level="expert",
        why="Names of your own are registered with nbft.registry.datasets.register.",
    )
    prompt_template: str | None = setting(
        help="Text of the prompt, with columns in braces: {question}.",
        source="QEfficient dataset.prompt_template",
        level="basic",
        why="Write {{ and }} for a brace that is not a column. The quoted form {'question'} is "
        "understood too.",
    )
    completion_template: str | None = setting(
        help="Text to be learnt, with columns in braces: {answer}.",
        source="QEfficient dataset.completion_template",
        level="basic",
    )
    prompt_func: str | None = setting(
        help="Function from a row to its prompt: path/to/file:function or package.module:function.",
        source="QEfficient dataset.prompt_func",
        why="Runs code of yours. Use it instead of prompt_template when the prompt depends on the "
        "row, never beside it.",
    )
    completion_func: str | None = setting(
        help="Function from a row to its completion; instead of completion_template.",
        source="QEfficient dataset.completion_func",
    )
    columns: dict[str, str] = setting(
        help="Names to give to columns: {prompt: question, completion: answer}.",
        source="nbft",
        default_factory=dict,
    )
    input_columns: list[str] = setting(
        help="Columns with the text, joined by line breaks: learnt, or the prompt where there is a "
        "target_column.",
        source="QEfficient dataset.input_columns",
        level="expert",
        default_factory=list,
    )
    target_column: str | None = setting(
        help="Column that is to be answered to the input_columns, such as a label.",
        source="QEfficient dataset.target_column",
        level="expert",
    )
    dataset_kwargs: dict[str, Any] = setting(
        help="Further arguments of datasets.load_dataset; with dataset_name json, csv, parquet or "
        "text they name files.",
        source="Oumi data.train.datasets[].dataset_kwargs",
        level="expert",
        default_factory=dict,
    )
    trust_remote_code: bool = setting(
        False,
        help="Run code that comes with a dataset. Not possible: datasets 4 runs none.",
        source="Oumi data.train.datasets[].trust_remote_code",
        level="expert",
    )
    sample_count: int | None = setting(
        label="Rows to use",
        help="Take this many rows; all when empty.",
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
        help="Seed of that shuffle; training.seed when empty.",
        source="Oumi data.train.datasets[].seed",
        ge=0,
    )
    mixture_proportion: float | None = setting(
        label="Share of the mixture",
        help="Share of this set in a mixture; every set of the split needs one, and they add to 1.",
        source="Oumi data.train.datasets[].mixture_proportion",
        gt=0,
        le=1,
        why="Without it every row of every set is taken once, so a set weighs as its rows count.",
    )

    @field_validator("trust_remote_code")
    @classmethod
    def _no_code_of_datasets(cls, value: bool) -> bool:
        if value:
            raise PydanticCustomError(
                "nbft",
                "since version 4 datasets runs no code that comes with a dataset. Name its Parquet "
                "files, or a copy of it without code.",
            )
        return value


class Split(Section):
    """The datasets of one split."""

    datasets: list[Dataset] = setting(
        help="The sets of rows: one after the other, or mixed by their mixture_proportion.",
        source="Oumi data.train.datasets",
        default_factory=list,
    )
    mixture_strategy: Literal["first_exhausted", "all_exhausted"] = setting(
        "first_exhausted",
        help="When a mixture ends: with the first set that runs out, or when all have, which "
        "repeats rows of the smaller ones.",
        source="Oumi data.train.mixture_strategy",
    )
    stream: bool = setting(
        False,
        help="Read the rows while training instead of before; needs training.max_steps.",
        source="Oumi data.train.stream",
        why="For sets that are too large to be read first. Their number stays unknown, so nothing "
        "is held out of them: name the validation rows.",
    )
    seed: int | None = setting(
        help="Seed of a mixture's draws and of a stream's order; training.seed when empty.",
        source="Oumi data.train.seed",
        level="expert",
        ge=0,
        le=2**32 - 1,
    )
    shuffle_buffer_size: int = setting(
        1000,
        help="Rows that a stream is shuffled among.",
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
                f"{len(given)} of {len(self.datasets)} sets have a mixture_proportion. Give one to "
                "every set, or to none.",
            )
        if abs(sum(given) - 1) > 1e-6:
            raise PydanticCustomError(
                "nbft",
                f"the mixture_proportion of the sets add to {sum(given):g}, not to 1. Use "
                f"{', '.join(f'{share / sum(given):.4g}' for share in given)}.",
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_dataset_may_stand_alone(cls, value: Any) -> Any:
        return _block_written_out(value) if isinstance(value, dict) else value


class Data(Section):
    """The rows and their way to tokens."""

    train: Split = setting(
        help="The rows to train on.", source="Oumi data.train", default_factory=Split
    )
    validation: Split | None = setting(
        help="The rows held out; cut from the training rows by split_ratio when empty.",
        source="Oumi data.validation",
    )
    test: Split | None = setting(
        help="Rows that only the scores after the training see.",
        source="Oumi data.test",
    )
    split_ratio: float = setting(
        0.9,
        label="Training share",
        help="Share of the rows to train on when no validation rows are named; the rest is held "
        "out.",
        source="QEfficient dataset.split_ratio (there 0.8)",
        gt=0,
        le=1,
        usual=(0.8, 0.99),
    )
    max_length: int = setting(
        1024,
        help="Longest example kept, in tokens; the rest is cut off.",
        unit="tokens",
        ge=8,
        level="basic",
        source="TRL SFTConfig.max_length",
        why="Memory and time grow with it. Check says how many rows it cuts.",
    )
    completion_only_loss: bool = setting(
        True,
        label="Train on completions only",
        help="Learn the completion only; false learns the prompt too.",
        source="TRL SFTConfig.completion_only_loss",
    )
    shuffle: bool = setting(
        True,
        help="Shuffle the training rows, by training.seed, once before and again in every epoch.",
        source="transformers Trainer",
    )
    padding_free: bool | None = setting(
        label="Training without padding",
        help="Lay the rows of a batch end to end instead of padding them; rows do not see each "
        "other. Decided by the model when empty.",
        source="TRL SFTConfig.padding_free",
        why="Saves the work on padding: nearly twice as fast on a CPU when lengths differ.",
    )
    packing: bool = setting(
        False,
        help="Fill sequences of max_length with several rows each; rows do not see each other.",
        source="TRL SFTConfig.packing",
        why="No padding, and batches of equal size. A step learns from more rows, so there are "
        "fewer steps.",
    )
    packing_strategy: Literal["bfd", "greedy", "wrapped"] = setting(
        "bfd",
        help="How rows are packed: bfd by best fit, greedy in the order of the rows, wrapped end to "
        "end, cutting rows where a sequence is full.",
        source="TRL SFTConfig.packing_strategy",
    )
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = setting(
        "random",
        label="Sampling strategy",
        help="Order of the rows in an epoch; group_by_length puts rows of like length together.",
        source="transformers TrainingArguments.train_sampling_strategy",
    )
    max_tokens_per_batch: int | None = setting(
        help="As many rows a batch as fit in so many tokens, in place of "
        "training.per_device_train_batch_size.",
        unit="tokens",
        ge=8,
        source="fairseq --max-tokens",
        why="Steps of one size: short rows come many at a time, long ones few, and memory is known "
        "before.",
    )
    length_column_name: str = setting(
        "input_ids",
        label="Length column",
        help="What counts as the length of a row with group_by_length: input_ids, labels, or a "
        "column of the rows (its number, or the letters of its text).",
        source="QEfficient dataset.length_column_name; transformers length_column_name",
        level="expert",
    )
    collate_fn: key_of(registry.collators) = setting(  # type: ignore[valid-type]
        "dynamic_padding",
        help="What makes a batch of rows; dynamic_padding pads to the longest row of the batch.",
        source="QEfficient dataset.collate_fn; Oumi data.train.collator_name",
        level="expert",
        why="Names of your own are registered with nbft.registry.collators.register.",
    )
    pad_to_multiple_of: int | None = setting(
        label="Pad to a multiple of",
        help="Pad every batch to a multiple of this many tokens.",
        unit="tokens",
        ge=1,
        source="TRL SFTConfig.pad_to_multiple_of",
    )
    dataset_num_proc: int | None = setting(
        label="Tokenizing processes",
        help="Processes that cut the rows into tokens; decided by the number of rows when empty.",
        ge=1,
        le=128,
        source="TRL SFTConfig.dataset_num_proc",
    )
    dataloader_num_workers: int = setting(
        0,
        label="Data loader workers",
        help="Processes that prepare batches; 0 prepares them in the training process.",
        ge=0,
        le=128,
        source="transformers TrainingArguments.dataloader_num_workers",
    )
    dataloader_prefetch_factor: int | None = setting(
        help="Batches each of those processes prepares ahead.",
        unit="batches",
        ge=1,
        source="transformers TrainingArguments.dataloader_prefetch_factor",
        level="expert",
    )
    dataloader_persistent_workers: bool = setting(
        False,
        help="Keep those processes from one epoch to the next.",
        source="transformers TrainingArguments.dataloader_persistent_workers",
        level="expert",
    )
    dataloader_pin_memory: bool = setting(
        True,
        help="Load batches into pinned memory, which a GPU reads faster; no effect on a CPU.",
        source="transformers TrainingArguments.dataloader_pin_memory",
        level="expert",
    )
    dataloader_drop_last: bool = setting(
        False,
        help="Leave out the last batch of an epoch when it is not full.",
        source="transformers TrainingArguments.dataloader_drop_last",
        level="expert",
    )

    def splits(self) -> dict[str, Split]:
        """Return the splits that are named: train, and validation and test where they are."""
        named = {name: getattr(self, name) for name in SPLITS}
        return {name: split for name, split in named.items() if split is not None}

    def named_datasets(self) -> list[tuple[str, Dataset]]:
        """Return every dataset with its dotted name in the config."""
        return [
            (f"data.{name}.datasets[{number}]", dataset)
            for name, split in self.splits().items()
            for number, dataset in enumerate(split.datasets)
        ]

    @model_validator(mode="before")
    @classmethod
    def _one_dataset_may_stand_alone(cls, value: Any) -> Any:
        """Move the keys of a dataset that stand directly under `data` to where they belong."""
        if not isinstance(value, dict):
            return value
        own = {k: v for k, v in value.items() if k in _DATASET_KEYS and k not in cls.model_fields}
        if own and value.get("train"):
            raise PydanticCustomError(
                "nbft",
                f"a dataset is written under data itself ({', '.join(own)}) and under data.train "
                "too. Keep one of them.",
            )
        return written_out(value)


SPLITS = ("train", "validation", "test")
_DATASET_KEYS = tuple(Dataset.model_fields)


def written_out(data: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of `data` with a dataset in short form moved to data.train.datasets.

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
