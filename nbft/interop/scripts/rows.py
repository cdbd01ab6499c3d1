"""What a trainer is given of its rows in a script: their text, the loss mask, what is held out.

`sources` follows the rows to what loads them; what a function of the file makes of a row is followed
with a row whose columns are unknown. Called by `training`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbft.config.data import Dataset
from nbft.data.sources import columns_of, load_rows
from nbft.errors import DataError
from nbft.interop.preferences import is_preference
from nbft.interop.report import Kind
from nbft.interop.scripts.evaluation import Program
from nbft.interop.scripts.notes import (
    Note,
    RefusalError,
    has_sft_trainer,
    known_methods,
    unknown_method,
)
from nbft.interop.scripts.sources import Rows, SourceReader, unwrapped
from nbft.interop.scripts.text import (
    chat_settings,
    conversation_of,
    has_end,
    is_understood,
    one_row,
    split_text,
    template_call,
    template_of,
    without_ends,
)
from nbft.interop.scripts.values import (
    MISSING,
    Call,
    Code,
    Column,
    Filled,
    Row,
    brief,
    found_in,
    joined,
    plain,
)


class RowsReader:
    """Reads the rows of one trainer.

    Args:
        program: The program.
        trainer: The call of the trainer.
        method: Key of the method.
        folder: Folder of the file, in which rows are looked for.
    """

    def __init__(self, program: Program, trainer: Call, method: str, folder: Path) -> None:
        self.program, self.trainer, self.method = program, trainer, method
        self._folder, self._sources = folder, SourceReader(program, trainer.line)
        self.notes: list[Note] = []
        self._tokenizer: Any = None  # whose chat template makes the text

    def read(self, given: Callable[..., Any], options: Mapping[str, Any]) -> list[Note]:
        """Return notes on the rows, with the settings that follow.

        Args:
            given: Returns an argument of the trainer by its names.
            options: The trainer's own arguments and those of its config, as values.

        Raises:
            RefusalError: The rows hold images.
        """
        self._options = options
        self._mask = self._find_mask(given)
        train = self._all(given("train_dataset"))
        held_out = self._held_out(given("eval_dataset"))
        kinds = [self._formatted(rows) for rows in train]
        if "unclear" in kinds and (both := self._with_and_without(given("train_dataset"))):
            train, kinds = both
        for number, rows in enumerate(train):
            self._add("train", number, rows, len(train))
        self._validation(train, held_out, given("eval_dataset"))
        self._loss(kinds)
        self._template(given, kinds)
        return self.notes

    def _say(
        self,
        key: str,
        kind: Kind,
        text: str,
        line: int = 0,
        value: Any = None,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self.notes.append(Note(key, kind, text, line, plain(value), changes or {}))

    # Where the rows come from

    def _all(self, value: Any) -> list[Rows]:
        """Return the rows of the trainer; all that the file loads where they cannot be followed."""
        rows = self._sources.follow(value)
        if rows:
            return rows
        line = self.trainer.line
        loaded = [call for call in self.program.calls if call.name == "load_dataset"]
        if self.trainer in self.program.calls:
            before = self.program.calls.index(self.trainer)
            loaded = [call for call in loaded if self.program.calls.index(call) < before]
        if loaded:
            names = ", ".join(brief(call.get("path", 0)) for call in loaded)
            what = "could not be followed to what loads it" if value is not None else "is not named"
            why = (
                f"{what}, so all that the file loads is taken: {names}. Remove what is not trained "
                "on, and say how a row becomes text"
            )
            self._say("train_dataset", "impossible", why, line, value)
            return [self._sources.source(call) for call in loaded]
        why = "no rows were found. Name them in data.train"
        self._say("train_dataset", "impossible", why, line, value)
        return []

    def _held_out(self, value: Any) -> list[Rows]:
        if value is None:
            return []
        if isinstance(value, dict):  # several sets by name
            if len(value) > 1:
                why = "several sets by name, of which the first is measured"
                self._say("eval_dataset", "deviates", why, self.trainer.line, list(value))
            value = next(iter(value.values()), None)
        return self._sources.follow(value)

    # What a row becomes

    def _formatted(self, rows: Rows) -> str:
        """Put what a row becomes into its settings; return its kind.

        Returns:
            pair, text, chat, columns (as they are), own (of unknown columns) or unclear.
        """
        value, line, key = self._text_of(rows)
        if value is MISSING:
            made = {"input_ids", "labels", "attention_mask"} & rows.columns.keys()
            if rows.unclear is not None or made:
                return self._not_understood(rows, rows.unclear or Code("map", rows.line), "map")
            return self._by_its_columns(rows)
        if isinstance(value, tuple) and all(isinstance(part, list) for part in value):
            kind = self._take_chat(rows, [turn for part in value for turn in part], key, line)
            return "pair" if kind == "chat" else kind
        if isinstance(value, tuple):  # prompt and completion
            templates = [template_of(one) for one in value]
            if None in templates or not all("{" in str(one) for one in templates):
                return self._not_understood(rows, Code(brief(value[0]), line), key)
            settings = dict(zip(("prompt_template", "completion_template"), templates, strict=True))
            self._take_settings(rows, settings, key, "as templates", line)
            return "pair"
        if (turns := conversation_of(value)) is not MISSING and rows.unclear is None:
            if call := template_call(value):
                self._tokenizer = call.receiver
                self._say_more_arguments(rows, call, key)
            return self._take_chat(rows, turns, key, line)
        if template_of(value) is None or rows.unclear is not None:
            return self._not_understood(rows, rows.unclear or Code(brief(value), line), key)
        return self._take_text(rows, value, key, line)

    def _with_and_without(self, value: Any) -> tuple[list[Rows], list[str]] | None:
        """Return the rows and their kinds where the text depends on whether one column is filled."""
        for column in self.program.asked:
            whole = self._read_assuming(value, column, Filled(column))
            short = self._read_assuming(value, column, "")
            pairs = [_joined(column, *pair) for pair in zip(*whole, *short, strict=False)]
            if pairs and None not in pairs:
                return [rows for rows in pairs if rows is not None], whole[1]
        return None

    def _read_assuming(self, value: Any, column: str, content: Any) -> tuple[list[Rows], list[str]]:
        assumed = {column: content}
        found = SourceReader(self.program, self.trainer.line, assumed).follow(value)
        return found, [self._formatted(rows) for rows in found]

    def _by_its_columns(self, rows: Rows) -> str:
        """Return the kind of rows that are used as they are; `own` if their columns are unknown."""
        path = rows.settings.get("path")
        if not isinstance(path, str):
            return "own"
        try:
            found = load_rows(Dataset(path=path), "train", "data", folder=self._folder)
        except (DataError, OSError, ValueError):
            return "own"
        columns = columns_of(found)
        return "pair" if {"prompt", "completion"} <= {*columns} else "columns"

    def _text_of(self, rows: Rows) -> tuple[Any, int, str]:
        """Return what is trained on of a row, where it is made, and by which key."""
        function, fixed = unwrapped(self.trainer.get("formatting_func"))
        function = self.program.callable_of(function)
        if function is not None:
            key, line = "formatting_func", getattr(function, "line", self.trainer.line)
            rows.function, rows.line = brief(function), line
            for is_batch in (False, True):
                row = Row("the row", line, columns=dict(rows.columns), is_batch=is_batch)
                skips = self.program.skips
                value = one_row(self.program.result(function, row, **fixed))
                if self.program.skips == skips and is_understood(value):
                    return value, line, key
            rows.unclear = Code(function.text, line)
            return MISSING, line, key
        columns, line = rows.columns, rows.line or rows.call.line
        if "prompt" in columns and "completion" in columns:
            return (columns["prompt"], columns["completion"]), line, "map"
        named = self._options.get("dataset_text_field")
        if isinstance(named, str) and named in columns:
            return columns[named], line, "map"
        if isinstance(named, str) and named not in ("", "text"):
            return Column(named), self.trainer.line, "dataset_text_field"
        for name in ("messages", "text", "conversations"):
            if name in columns:
                return columns[name], line, "map"
        return MISSING, line, "map"

    def _take_settings(
        self, rows: Rows, settings: Mapping[str, Any], key: str, why: str, line: int
    ) -> None:
        rows.settings.update(settings)
        rows.note(key, "converted", why, line, rows.function)

    def _take_text(self, rows: Rows, value: Any, key: str, line: int) -> str:
        """Take a text that is a template of columns."""
        pieces = list(without_ends(value))
        if len(pieces) == 1 and isinstance(column := pieces[0], Column):
            is_text = column.text == "text"
            rows.settings |= (
                {"dataset_type": "text"} if is_text else {"input_columns": [column.text]}
            )
            rows.note(key, "converted", "this column, as it is", line, column.text)
            return "text"
        begin, split = split_text(pieces, self._response_part)
        if split is None:
            return self._not_understood(rows, Code(brief(value), line), "response_part")
        if not any(isinstance(piece, Column) for piece in begin):
            if self._response_part is not None:
                return self._not_understood(rows, Code(brief(value), line), "response_part")
            begin, split = [], pieces
        settings = {
            "prompt_template": template_of(joined(begin)) or "",
            "completion_template": template_of(joined(split)),
        }
        self._take_settings(rows, settings, key, "the function is a template of columns", line)
        if not has_end(value) and has_sft_trainer(self.method):
            why = "the text has no end-of-sequence token of its own; nbft adds one and trains it"
            rows.note(f"{key}: end of text", "converted", why, line)
        return "text"

    def _say_more_arguments(self, rows: Rows, call: Call, key: str) -> None:
        """Say what a chat template is given besides the conversation."""
        for name in call.keywords.keys() - _TEMPLATE_ARGUMENTS:
            why = "nbft gives the chat template the conversation only"
            line = call.lines.get(name, call.line)
            rows.note(f"{key}.{name}", "impossible", why, line, call.keywords[name])

    def _take_chat(self, rows: Rows, turns: Any, key: str, line: int) -> str:
        if isinstance(turns, Column):
            settings: dict[str, Any] = {"dataset_type": "messages"}
            if turns.text != "messages":
                settings["columns"] = {"messages": turns.text}
            why = "conversations, through the chat template"
            self._take_settings(rows, settings, key, why, line)
            return "chat"
        media = found_in(turns, lambda v: isinstance(v, dict) and v.get("type") in _MEDIA)
        if media and "vision" not in known_methods():
            name = rows.function or "the file"
            raise RefusalError(unknown_method("vision", name, "images or sound"), line)
        made = chat_settings(turns)
        if made is not None:
            self._take_settings(rows, made, key, "a conversation made of columns", line)
            return "chat"
        return self._not_understood(rows, Code("a conversation that the code makes", line), key)

    def _not_understood(self, rows: Rows, code: Code, key: str) -> str:
        why = (
            f"{rows.function or brief(code)} is code that would have to be run; nbft makes text of "
            "the rows by their columns instead. Compare with nbft inspect, and write "
            "prompt_template and completion_template where it differs"
        )
        rows.note(key, "impossible", why, code.line or rows.line or rows.call.line, rows.function)
        return "unclear"

    # The loss mask

    def _find_mask(self, given: Callable[..., Any]) -> tuple[str, bool, int] | None:
        """Return what masks the loss, whether only answers are trained on, and its line."""
        self._response_part: str | None = None
        for call in self.program.calls:
            if call.name == "train_on_responses_only":
                inside = [*call.arguments, *call.keywords.values()]
                if found_in(inside, lambda v: v is self.trainer):
                    part = call.get("response_part", 2)
                    self._response_part = part if isinstance(part, str) else None
                    return "train_on_responses_only", True, call.line
        collator = given("data_collator")
        if isinstance(collator, Call) and collator.name == "DataCollatorForCompletionOnlyLM":
            part = collator.get("response_template", 0)
            self._response_part = part if isinstance(part, str) else None
            return "data_collator", True, collator.line
        if collator is not None and not _only_pads(collator):
            why = "what this collator masks or changes is code that would have to be run"
            self._say("data_collator", "impossible", why, self.trainer.line, collator)
        for name in ("assistant_only_loss", "completion_only_loss"):
            value = self._options.get(name)
            if isinstance(value, bool):
                return name, value, 0
        return None

    def _loss(self, kinds: Sequence[str]) -> None:
        """Say what adds to the loss."""
        setting = "data.completion_only_loss"
        if is_preference(self.method):
            return
        if self._mask is not None:
            key, only, line = self._mask
            if key.endswith("only_loss") and only and "text" in kinds:
                why = "the rows are text without a prompt, so all of it is trained on, as there"
                self._say(key, "converted", why, line, only, {setting: False})
                return
            what = "only the answers are trained on" if only else "prompts are trained on too"
            self._say(key, "converted", f"{what}, as there", line, only, {setting: only})
            return
        if "pair" in kinds and has_sft_trainer(self.method):
            why = "the rows have prompt and completion: only the completion is trained on, as there"
            self._say("completion_only_loss", "defaulted", why, 0, None, {setting: True})
            return
        why = "nothing masks the prompt, so the whole text is trained on, as there"
        if kinds and set(kinds) == {"own"} and has_sft_trainer(self.method):
            why += "; if the rows have the columns prompt and completion, TRL trains on the completion "
            why += "only: set it to true then"
        self._say("completion_only_loss", "defaulted", why, 0, None, {setting: False})

    # The chat template

    def _template(self, given: Callable[..., Any], kinds: Sequence[str]) -> None:
        """Take a chat template that is set on the tokenizer."""
        tokenizer = self._tokenizer or given("processing_class", "tokenizer")
        calls = found_in(tokenizer, lambda v: isinstance(v, Call) and v.name in _TEMPLATE_CALLS)
        text, line, key = None, 0, "tokenizer.chat_template"
        if calls:
            call = calls[0]
            text, line, key = call.get("chat_template", 1), call.line, call.name
            if call.name == "setup_chat_format":
                text = "chatml"
            if isinstance(text, tuple):
                text = text[0]
        for owner in found_in(tokenizer, lambda v: isinstance(v, Call)):
            for name, value in owner.changed.items():
                if name.endswith("chat_template"):
                    text, line = value, getattr(value, "line", owner.line) or owner.line
        if text is None or not {"chat", "own", "columns"} & {*kinds}:
            return
        self._say(*_chosen_template(key, text, line))

    # What is held out

    def _validation(self, train: list[Rows], held_out: list[Rows], value: Any) -> None:
        setting = "data.split_ratio"
        if value is None or not held_out:
            if value is not None:
                why = "could not be followed to what loads it. Name the rows in data.validation"
                self._say("eval_dataset", "impossible", why, self.trainer.line, value)
            why = "no rows are held out: all are trained on, as there"
            self._say("eval_dataset", "defaulted", why, 0, None, {setting: 1.0})
            return
        shared = next(
            (rows for rows in train for other in held_out if other.side and rows.side == "train"),
            None,
        )
        if shared is not None:
            share = shared.share
            line = held_out[0].call.line
            if isinstance(share, float) and 0 < share < 1:
                why = "the same share is held out, of other rows"
                share = round(share, 6)
                self._say("train_test_split", "converted", why, line, share, {setting: share})
            else:
                why = "how many are held out is a number of rows; nbft has a share. Set it"
                self._say("train_test_split", "impossible", why, line, share)
            return
        for number, rows in enumerate(held_out):
            self._formatted(rows)
            self._add("validation", number, rows, len(held_out))

    def _add(self, split: str, number: int, rows: Rows, total: int) -> None:
        """Say what became of a dataset."""
        prefix = f"data.{split}.datasets[{number}]"
        name = "train_dataset" if split == "train" else "eval_dataset"
        key = name if total == 1 else f"{name}[{number}]"
        if rows.mixture is not None:
            rows.settings["mixture_proportion"] = rows.mixture
            changes = {f"data.{split}.mixture_strategy": rows.strategy}
            if rows.strategy != "first_exhausted":
                self._say(f"{key}.stopping_strategy", "renamed", "", 0, rows.strategy, changes)
        if rows.is_stream:
            why = "rows are read while training"
            self._say(
                f"{key}.streaming",
                "renamed",
                why,
                rows.call.line,
                True,
                {f"data.{split}.stream": True},
            )
        settings = dict(rows.settings)
        if split == "train" and rows.side == "train" and rows.share is not None:
            self._part_of(rows, settings)
        for setting, value in settings.items():
            origin: Kind = "taken" if setting in ("dataset_name", "split", "path") else "renamed"
            kind_of: Kind = "converted" if setting in _MADE else origin
            changes = {f"{prefix}.{setting}": value}
            self._say(f"{key}.{setting}", kind_of, "", rows.call.line, value, changes)
        for note in rows.notes:
            self.notes.append(note._replace(key=f"{key}.{note.key}"))

    def _part_of(self, rows: Rows, settings: dict[str, Any]) -> None:
        """Say what becomes of the part of a split whose other part is not used."""
        uses_other = self.trainer.get("eval_dataset") is not None
        if uses_other:
            return
        share, split = rows.share, settings.get("split", "train")
        if isinstance(share, float) and "[" not in split and "path" not in settings:
            settings["split"] = f"{split}[:{max(1, round(share * 100))}%]"
            why = "the first rows; there they are drawn at random"
            rows.note("train_test_split", "deviates", why, rows.call.line, share)
        else:
            why = (
                "a part of the rows, drawn at random; nbft trains on all of them. Set sample_count"
            )
            rows.note("train_test_split", "impossible", why, rows.call.line, share)


def _joined(column: str, whole: Rows, kind: str, short: Rows, other_kind: str) -> Rows | None:
    """Return rows with both texts; None where the settings cannot hold both.

    Args:
        column: What their text depends on.
        whole: The rows with the text where the column is filled.
        kind: Its kind.
        short: The same where it is empty.
        other_kind: Its kind.
    """
    if "unclear" in (kind, other_kind) or kind != other_kind:
        return None
    settings, other = whole.settings, short.settings
    different = {name for name in {*settings, *other} if settings.get(name) != other.get(name)}
    if different == {"system_template"} and "system_template" not in other:
        return whole  # a row has a system turn where the columns in it are filled
    texts = [name for name in settings if name.endswith("_template")]
    if different != {"prompt_template"} or {*texts} - {"prompt_template", "completion_template"}:
        return None
    settings["no_input_template"] = other["prompt_template"]
    if column != "input":  # the column whose emptiness counts is named so
        if any("{input}" in settings[name] for name in texts):
            return None
        settings["columns"] = {"input": column}
        for name in texts:
            settings[name] = settings[name].replace(f"{{{column}}}", "{input}")
    return whole


_MADE = {
    *(
        "no_input_template",
        "prompt_template",
        "completion_template",
        "system_template",
        "input_columns",
        "columns",
        "dataset_type",
    ),
    *("sample_count", "shuffle", "seed"),
}
_TEMPLATE_ARGUMENTS = {
    *("conversation", "tokenize", "add_generation_prompt", "return_tensors", "return_dict"),
    *("padding", "truncation", "max_length", "add_special_tokens"),
}
_MEDIA = ("image", "image_url", "audio", "video")
_TEMPLATE_CALLS = ("get_chat_template", "setup_chat_format", "clone_chat_template")


_THEIR_TEMPLATES = {
    **dict.fromkeys(("chatml", "zephyr", "mistral", "gemma"), ""),
    "llama-3": "llama3",
    "llama3": "llama3",
    "gemma2": "gemma",
    "gemma-2": "gemma",
}


def _only_pads(collator: Any) -> bool:
    """Whether a collator leaves the labels as they are."""
    name = getattr(collator, "name", "")
    if name == "DataCollatorForLanguageModeling" and isinstance(collator, Call):
        return collator.get("mlm") is False or collator.function.startswith("trl")
    return name in _COLLATORS_THAT_PAD


_COLLATORS_THAT_PAD = {
    *("DataCollatorForSeq2Seq", "DataCollatorWithPadding", "DataCollatorWithFlattening"),
    *("default_data_collator", "DefaultDataCollator"),
}


def _chosen_template(
    key: str, text: Any, line: int
) -> tuple[str, Kind, str, int, Any, dict[str, Any]]:
    """Return the note on a chat template."""
    setting = "model.chat_template"
    if isinstance(text, Code) or not isinstance(text, str):
        why = "is code; the tokenizer's own chat template is used. Set model.chat_template"
        return key, "impossible", why, line, text, {}
    if "{" in text:
        return key, "renamed", "", line, text, {setting: text}
    if text in _THEIR_TEMPLATES:
        return key, "converted", "", line, text, {setting: _THEIR_TEMPLATES[text] or text}
    why = (
        "nbft has no template of this name; the model's own is used, which for chat models of this "
        "kind has the same form. A base model has none: set model.chat_template_path then"
    )
    return key, "deviates", why, line, text, {}
