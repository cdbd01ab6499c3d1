"""The mask lens: rows as the model will see them, in colour, one at a time.

`Lens` shows a row of a split as columns, as text, as tokens, or in the sequence that it is packed
into; `nbft.data.lens` describes the tokens. Only rows on screen are tokenised, and a sample to find
the worst. Importing a tokenizer takes seconds, so a row is shown as text until a thread has loaded
it; only the main thread touches the widget.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets

from nbft.config import Config
from nbft.config.problems import nearest
from nbft.data.examples import Examples, by_answer, load_examples
from nbft.data.lens import (
    ORDERS,
    LensRow,
    LensToken,
    Measure,
    kinds_of,
    measure,
    seen,
    sequences,
    worst_first,
)
from nbft.data.sources import spread
from nbft.data.tokens import Sequences, encode_rows
from nbft.decisions import decide
from nbft.errors import DataError, NbftError, Problem
from nbft.formatting import count
from nbft.methods import method_of
from nbft.models.find import find_local, find_model
from nbft.models.load import tokenizer_source
from nbft.pages import lens as page
from nbft.widgets.background import Task
from nbft.widgets.kernel import call_soon, is_main_thread, main_loop

_HERE = Path(__file__).parent

SAMPLE_ROWS = 2_000
"""Rows that are tokenised to find the worst, and to pack them."""

_CHUNK_ROWS = 100
_SENT_TOKENS = 20_000  # of a row, unless all of it is asked for
_SENT_CHARACTERS = 100_000
_SPLIT_ROWS = 5_000  # of more, the answers are not split up
_STILL_ROWS = 3
_SPLITS = {"train": "training rows", "validation": "held-out rows", "test": "test rows"}
_VIEWS = {"row": "Row", "text": "Text", "tokens": "Tokens", "packed": "Packed"}


def inspect(
    config: Config | str | Path, row: int = 1, split: str = "train", **unknown: Any
) -> Lens:
    """Look at the rows of a config as the model will see them.

    Args:
        config: A config, or the path of a config file.
        row: The row to show first, counted from 1 in its split.
        split: train, validation (the held-out rows) or test.
        **unknown: Any other keyword is a TypeError with the closest name.

    Raises:
        ConfigError: The file holds no valid config.
        DataError: There is no such split.
        TypeError: An unknown keyword, or something that is no config.
    """
    return Lens(config, row, split, **unknown)


def _wish(trait: str) -> Callable[[Callable[[Lens, Any], None]], Any]:
    """Observe a trait that a person changes, on the main thread; some kernels use another.

    The handler gets the new value. It is not called for changes that the lens makes itself.
    """

    def observed(handler: Callable[[Lens, Any], None]) -> Any:
        def run(self: Lens, change: Any) -> None:
            if not is_main_thread():
                call_soon(run, self, change)
            elif not self._is_placing:
                handler(self, change["new"])

        return traitlets.observe(trait)(run)

    return observed


class Lens(anywidget.AnyWidget):
    """Rows as the model will see them; see `inspect` for its arguments."""

    _esm = _HERE / "lens.js"
    _css = _HERE / "lens.css"

    kinds: traitlets.List[Any] = traitlets.List(help="[name, meaning] of each kind").tag(sync=True)
    views: traitlets.List[Any] = traitlets.List(help="[name, title] of each view").tag(sync=True)
    splits: traitlets.List[Any] = traitlets.List(help="[name, title] of each split").tag(sync=True)
    orders: traitlets.List[Any] = traitlets.List(help="[name, title] of each order").tag(sync=True)
    view = traitlets.Unicode("tokens").tag(sync=True)
    split = traitlets.Unicode("train").tag(sync=True)
    order = traitlets.Unicode("file").tag(sync=True)
    shows_spaces = traitlets.Bool(False).tag(sync=True)
    shows_boundaries = traitlets.Bool(False).tag(sync=True)
    is_whole = traitlets.Bool(False, help="whether all of a long row is wanted").tag(sync=True)
    wanted_models = traitlets.Int(0, help="grows with each request of the model").tag(sync=True)
    number = traitlets.Int(1, help="the row, counted from 1 in its split").tag(sync=True)
    position = traitlets.Int(1, help="its place in the order; 0 for none").tag(sync=True)
    total = traitlets.Int(0, help="rows of the split").tag(sync=True)
    ranked = traitlets.Int(0, help="places in the order").tag(sync=True)
    row: traitlets.Dict[Any, Any] = traitlets.Dict(help="what is shown of the row").tag(sync=True)
    sequence: traitlets.Dict[Any, Any] = traitlets.Dict(help="the packed one").tag(sync=True)
    says = traitlets.Unicode(help="a description of the order").tag(sync=True)
    model: traitlets.Dict[Any, Any] = traitlets.Dict(help="state and sentence").tag(sync=True)
    about: traitlets.List[Any] = traitlets.List(help="sentences about all rows").tag(sync=True)
    still = traitlets.Unicode(help="id of the still picture, to be hidden").tag(sync=True)

    def __init__(
        self, config: Config | str | Path, row: int = 1, split: str = "train", **unknown: Any
    ) -> None:
        for name in unknown:
            raise TypeError(f"inspect has no {name!r}. {nearest(name, ('config', 'row', 'split'))}")
        self._folder: Path | None = None
        if isinstance(config, (str, Path)):
            self._folder = Path(config).expanduser().absolute().parent
            config = Config.load(config)
        if not isinstance(config, Config):
            raise TypeError(f"config is a {type(config).__name__}. Give an nbft.Config or a path.")
        _known(split)
        self._config, self._method = config, method_of(config)
        self._shown: LensRow | None = None
        self._wanted: tuple[int, str] | None = (row, split)  # until the rows are read
        self._examples = Examples([], np.arange(0))
        self._tokenizer: Any = None
        self._loading: Task | None = None
        self._tokenizing = threading.Lock()  # a tokenizer serves one thread at a time
        self._measures: dict[int, Measure | None] = {}  # by the row's place in its split
        self._measuring: Sequence[int] = ()
        self._ranking: list[int] = []
        self._problems: list[str] = []  # of the split
        self._is_placing = False  # whether the lens itself changes its traits
        self._picture_shown: Any = None
        decided = decide(config)
        # Of several sequences, a row is one place in a batch only if they share their prompt.
        is_one = len(self._method.sequences) == 1 or decided.uses("shared_prompt")
        packs = decided.padding_free and is_one
        super().__init__(
            still=uuid.uuid4().hex,
            says="Reading the rows…",
            kinds=[list(kind) for kind in kinds_of(self._method).items()],
            views=[[name, title] for name, title in _VIEWS.items() if packs or name != "packed"],
            splits=[[name, _SPLITS[name]] for name in _splits(config)],
            orders=[["file", "in order"], *map(list, ORDERS.items())],
        )
        self._find_tokenizer()
        loop = main_loop()
        if loop is None:
            self._show_wanted()
        else:  # the front end makes the view meanwhile
            loop.call_soon(self._show_wanted)

    @property
    def shown(self) -> LensRow | None:
        """The row on screen; None where it cannot be read."""
        self._show_wanted()
        return self._shown

    def go_to(self, number: int, split: str | None = None) -> None:
        """Show a row.

        Args:
            number: The row, counted from 1 in its split; the nearest existing one is shown.
            split: Its split; the one that is shown if None.

        Raises:
            DataError: There is no such split.
        """
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self._read(_known(split or wanted[1]))
        elif split is not None and split != self.split:
            self._read(_known(split))
        self._place(number)

    def _show_wanted(self) -> None:
        """Show the row that was asked for at first, unless one is shown already."""
        if self._wanted is not None:
            self.go_to(self._wanted[0])

    def close(self) -> None:
        """Release the rows, which also ends measuring on a thread."""
        self._examples = Examples([], np.arange(0))
        self.layout.close()
        super().close()

    # What is displayed, here and in a saved notebook

    def __str__(self) -> str:
        """Return the row in plain text, for terminals."""
        self._show_wanted()
        if self._loading is not None:
            self._loading.wait()
        return page.plain(self._title(self.number), self._shown, self._sentences())

    def _ipython_display_(self) -> None:
        """Show the widget, and below it a still picture that it hides as long as it lives."""
        from IPython.display import display

        view, metadata = self._repr_mimebundle_()
        display(view, raw=True, metadata=metadata)
        self._show_wanted()
        self._picture_shown = display(self._picture(), raw=True, display_id=True)

    def _repr_mimebundle_(self, **_: Any) -> Any:
        data, metadata = super()._repr_mimebundle_() or ({}, {})
        data.pop("text/plain", None)  # the picture has it
        return data, metadata

    def _picture(self) -> dict[str, str]:
        """Return the first rows as a still picture, as HTML and as text."""
        last = min(self.total, self.number + _STILL_ROWS - 1)
        numbers = range(self.number, max(last, self.number) + 1)
        rows = [(self._title(n), *self._seen(n)) for n in numbers]
        sentences = [*self.about, self.model["text"]]
        return {
            "text/html": str(page.html(rows, sentences, self.still)),
            "text/plain": page.plain(rows[0][0], rows[0][1], self._sentences()),
        }

    def _redraw(self) -> None:
        """Add the tokens to the still picture."""
        if self._picture_shown is not None and self._tokenizer is not None:
            self._picture_shown.update(self._picture(), raw=True)

    # Rows

    def _read(self, split: str) -> None:
        """Read a split; problems with it are shown instead of its rows."""
        about, self._problems = [], []
        try:
            self._examples, remarks = load_examples(self._config, split, folder=self._folder)
            about = [*self._examples.recognised, *remarks, *self._split_up()]
            if not self._examples:
                self._problems = [f"There are no {_SPLITS[split]}."]
        except DataError as error:
            self._examples = Examples([], np.arange(0))
            self._problems = [str(problem) for problem in error.problems]
        self._measures, self._measuring, self._ranking = {}, (), []
        with self._placing():
            self.split, self.order, self.says, self.about = split, "file", "", about
            self.total = self.ranked = len(self._examples)

    def _split_up(self) -> list[str]:
        """Make one row for each answer where the chat template needs it; return what to say."""
        if self._tokenizer is None:
            return []
        some = self._examples.take(spread(len(self._examples), _SPLIT_ROWS))
        split_up, said = by_answer(some, self._tokenizer)
        if said and len(some) < len(self._examples):
            return [
                (
                    "The chat template writes earlier turns differently when the conversation goes "
                    "on, so each answer is an example of its own. Here the last one of each row is "
                    "shown."
                )
            ]
        self._examples = split_up if said else self._examples
        return said

    def _place(self, number: int, position: int | None = None) -> None:
        """Show a row at its place in the order."""
        number = min(max(number, 1), max(self.total, 1))
        if position is None:
            position = number
            if self.order != "file":
                position = self._ranking.index(number) + 1 if number in self._ranking else 0
        with self._placing():
            self.is_whole &= number == self.number
            self.number, self.position = number, position
            self._paint()

    @contextlib.contextmanager
    def _placing(self) -> Iterator[None]:
        """Change what is shown in one message, not to be taken for a person's wish."""
        before, self._is_placing = self._is_placing, True
        try:
            with self.hold_sync():
                yield
        finally:
            self._is_placing = before

    def _paint(self) -> None:
        """Show the row as far as it is known."""
        self._shown, problems = self._seen(self.number)
        self.row = {
            "title": self._title(self.number),
            "facts": self._shown.facts if self._shown else [],
            "problems": problems,
            **(self._about_row(self.number) if self.total else {}),
            **_sent(self._shown, self.is_whole),
        }
        if self.view == "packed":
            self._show_sequence()

    def _seen(self, number: int) -> tuple[LensRow | None, list[str]]:
        """Return a row as tokens or, failing that, as text; and the problems with it."""
        if not self.total:
            return None, self._problems
        with self._tokenizing:
            return seen(
                *(self._examples, number - 1, self._config, self._tokenizer, self.split),
                encode=encode_rows,
            )

    def _encoded(self, places: Sequence[int], examples: Examples) -> list[Sequences]:
        """Tokenise rows as the training does."""
        with self._tokenizing:
            return encode_rows(
                [examples[place] for place in places],
                self._tokenizer,
                self._method,
                self.split,
                completion_only=self._config.data.completion_only_loss,
                first=places[0],
                max_length=self._config.data.max_length,
                most_prompt_tokens=self._method.most_prompt_tokens(self._config),
            )

    def _title(self, number: int) -> str:
        if not self.total:
            return "no rows"
        total = count(self.total)
        if self._examples.is_stream:
            total = f"the first {total} of a stream"
        return f"row {count(number)} of {total}"

    def _about_row(self, number: int) -> dict[str, Any]:
        """Return the raw columns of a row and its origin."""
        dataset, row = self._examples.origin(number - 1)
        splits = self._config.data.splits()
        named = splits[self.split if self.split in splits else "train"].datasets[dataset]
        name = named.called
        format_name = self._examples.formats[dataset]
        how = "through the template" if format_name == "template" else f"as {format_name}"
        columns = []
        with contextlib.suppress(DataError):
            for column, value in self._examples.row(number - 1).items():
                text = value
                if not isinstance(value, str):
                    text = json.dumps(value, ensure_ascii=False, indent=2, default=str)
                columns.append([str(column), text[: None if self.is_whole else _SENT_CHARACTERS]])
        origin = f"Row {count(row)} of {name}, read {how}."
        if self.split in ("validation", "test"):
            origin += " It is held out: the loss of its marked tokens is measured, not trained on."
        return {"columns": columns, "origin": origin}

    def _sentences(self) -> list[str]:
        """Return the sentences that go with the row."""
        sentences = [*self.about, *self.row["problems"], self.model["text"], self.says]
        return list(filter(None, sentences))

    # What a person asks for

    @_wish("split")
    def _take_split(self, split: str) -> None:
        self._read(split)
        self._place(1)

    @_wish("number")
    def _take_number(self, number: int) -> None:
        self._place(number)

    @_wish("position")
    def _take_position(self, position: int) -> None:
        position = min(max(position, 1), max(self.ranked, 1))
        if self.order == "file":
            self._place(position)
        elif self._ranking:
            self._place(self._ranking[position - 1], position)

    @_wish("view")
    def _take_view(self, view: str) -> None:
        if view == "packed":
            self._show_sequence()

    @_wish("is_whole")
    def _take_whole(self, _is_whole: bool) -> None:
        self._paint()

    @_wish("order")
    def _take_order(self, order: str) -> None:
        if order == "file":
            with self._placing():
                self.ranked, self.says, self._ranking = self.total, "", []
            self._place(self.number)
        else:
            self._rank()

    # The worst first

    def _rank(self) -> None:
        """Put the worst of a sample first, once its rows are measured."""
        places = [int(place) for place in spread(self.total, SAMPLE_ROWS)]
        if self._tokenizer is None:
            self.says = "The order waits for the tokenizer."
            return
        if not self._are_measured(places):
            self.says = f"Measuring {count(len(places), 'row')}…"
            self._measure(places)
            return
        order = worst_first([self._measures[place] for place in places], self.order)
        self._ranking = [places[n] + 1 for n in order]
        which = f"of all {count(self.total, 'row')}"
        if self.total > len(places):
            which = f"of {count(len(places), 'row')} spread evenly over {count(self.total)}"
        says = f"{ORDERS[self.order].capitalize()}, {which}."
        if self.order == "cut" and not any((m := self._measures[p]) and m.cut for p in places):
            says += " Nothing is cut in them."
        with self._placing():
            self.says, self.ranked = says, len(places)
        if self._ranking:
            self._place(self._ranking[0], 1)

    def _are_measured(self, places: Sequence[int]) -> bool:
        return all(place in self._measures for place in places)

    def _measure(self, places: Sequence[int]) -> None:
        """Measure rows on a thread, and show what waits for them."""
        missing = [place for place in places if place not in self._measures]
        if self._measuring != missing:
            self._measuring = missing
            work = functools.partial(self._measured, missing, self._examples, self._measures)
            Task(work, self._take_measures, self._fail)

    def _measured(
        self, places: Sequence[int], examples: Examples, measures: dict[int, Measure | None]
    ) -> None:
        """Measure rows in chunks, until others are to be measured."""
        for start in range(0, len(places), _CHUNK_ROWS):
            if self._measuring is places and self._examples is examples:
                measures.update(self._measures_of(places[start : start + _CHUNK_ROWS], examples))

    def _measures_of(self, places: Sequence[int], examples: Examples) -> dict[int, Measure | None]:
        limit = self._config.data.max_length
        try:
            encoded = self._encoded(places, examples)
            return {p: measure(row, limit) for p, row in zip(places, encoded, strict=True)}
        except DataError:
            if len(places) == 1:
                return {places[0]: None}
            one_by_one = (self._measures_of([place], examples) for place in places)
            return {place: m for measures in one_by_one for place, m in measures.items()}

    def _take_measures(self, _done: object) -> None:
        if self._measuring and self._are_measured(self._measuring):
            self._measuring = ()
            if self.order != "file":
                self._rank()
            if self.view == "packed":
                self._show_sequence()

    # The packed sequence

    def _show_sequence(self) -> None:
        """Show the sequence that the row is part of, or why there is none."""
        data = self._config.data
        if self._tokenizer is None or not self.total:
            self.sequence = {"says": "The sequence waits for the tokenizer."}
        elif self.split != "train":
            self.sequence = {"says": "Only training rows are packed into a sequence."}
        elif data.packing:
            self._show_packed()
        else:
            self._show_batch()

    def _show_packed(self) -> None:
        data = self._config.data
        here = self.number - 1
        first = here - here % SAMPLE_ROWS if self.total > SAMPLE_ROWS else 0
        places = range(first, min(self.total, first + SAMPLE_ROWS))
        if not self._are_measured(places):
            self.sequence = {"says": f"Measuring {count(len(places), 'row')} to pack them…"}
            self._measure(places)
            return
        kept = [p for p in places if (m := self._measures[p]) is not None and m.trained]
        if here not in kept:
            self.sequence = {"says": "This row is left out of the training: it is in no sequence."}
            return
        if data.shuffle:  # as the training does, so that these are its sequences
            order = np.random.default_rng(self._config.training.seed).permutation(len(kept))
            kept = [kept[n] for n in order]
        lengths = [m.kept for p in kept if (m := self._measures[p]) is not None]
        packed = sequences(lengths, data.max_length, data.packing_strategy)
        at = next(n for n, pieces in enumerate(packed) if any(kept[p.row] == here for p in pieces))
        says = (
            f"Sequence {count(at + 1)} of {count(len(packed))}, packed by {data.packing_strategy}."
        )
        if self.total > len(places):
            says = (
                f"How it would be packed by {data.packing_strategy} among rows "
                f"{count(first + 1)} to {count(first + len(places))}; the training packs all rows."
            )
        pieces = [(kept[p.row], p.begin, p.end) for p in packed[at]]
        self.sequence = self._drawn(pieces, data.max_length, says)

    def _show_batch(self) -> None:
        """Show the rows from this one on as a batch without padding."""
        data, size = self._config.data, self._config.training.per_device_train_batch_size
        pieces: list[tuple[int, int, int]] = []
        place = self.number - 1
        while place < self.total and len(pieces) < size:
            row, _ = self._seen(place + 1)
            if row is not None and row.measure is not None and row.measure.trained:
                pieces.append((place, 0, sum(len(token.ids) for token in row.kept_tokens)))
            place += 1
        says = f"A batch of {count(size, 'row')}, joined without padding."
        if len(self._method.sequences) > 1:
            says = f"{says[:-1]}; a prompt is computed once for its answers."
        if data.shuffle:
            says += " Every epoch shuffles the rows into new batches; these are in file order."
        self.sequence = self._drawn(pieces, sum(end - begin for _, begin, end in pieces), says)

    def _drawn(
        self, pieces: Sequence[tuple[int, int, int]], size: int, says: str
    ) -> dict[str, Any]:
        """Return a sequence as the front end takes it."""
        drawn = []
        for place, begin, end in pieces:
            row, _ = self._seen(place + 1)
            sides = row.sides.values() if row else ()
            drawn.append(
                {
                    "number": place + 1,
                    "begin": begin,
                    "end": end,
                    "of": row.measure.kept if row and row.measure and not sides else end,
                    # The answers of a pair begin at the same position, after their prompt.
                    "last": max((one.kept for one in sides), default=end - begin) - 1,
                    "isHere": place == self.number - 1,
                    "runs": runs(_between(row.kept_tokens, begin, end)) if row else [],
                }
            )
        used = sum(end - begin for _, begin, end in pieces)
        return {"says": says, "pieces": drawn, "used": used, "size": size}

    # The tokenizer

    def _find_tokenizer(self) -> None:
        """Load the tokenizer on a thread, if it is on this machine."""
        name, revision = tokenizer_source(self._config)
        if find_local(name, revision) is None:
            self.model = {
                "state": "absent",
                "text": f"The model {name} is not on this machine yet, so rows are shown as text "
                "only.",
            }
            return
        self.model = {
            "state": "loading",
            "text": f"Loading the tokenizer of {name}; until then rows are shown as text.",
        }
        self._loading = Task(self._load, self._take_tokenizer, self._fail)
        self._wait_before_the_next_cell(self._loading)

    def _wait_before_the_next_cell(self, loading: Task) -> None:
        """Delay the next cell until the tokenizer is loaded, and then update the picture.

        transformers replaces itself while it is imported: a cell that imports it at the same
        time gets half of it, and fails. Tools that execute notebooks to save them take a new
        picture only while a cell runs.
        """
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
        if shell is None:
            return

        def wait(*_: Any) -> None:
            shell.events.unregister("pre_run_cell", wait)
            loading.wait()
            self._redraw()

        shell.events.register("pre_run_cell", wait)

    def _load(self) -> Any:
        """Return the tokenizer that the training uses."""
        from nbft.models.load import tokenizer_for_display

        model = find_model(*tokenizer_source(self._config), say=lambda _: None)
        return tokenizer_for_display(self._config, model.path, self._folder)

    def _take_tokenizer(self, tokenizer: Any) -> None:
        self._show_wanted()
        self._tokenizer = tokenizer
        with self._placing():
            self.model = {"state": "ready", "text": ""}
            if said := self._split_up():
                self.about = [*self.about, *said]
                self.total = self.ranked = len(self._examples)
            self._paint()
        self._redraw()
        if self.order != "file":
            self._rank()

    def _fail(self, error: Exception) -> None:
        """Show why there are no tokens."""
        what = f"{type(error).__name__}: {error}".strip(": ")
        text = str(error) if isinstance(error, NbftError) else f"Rows cannot be tokens ({what})."
        self.model = {"state": "failed", "text": text}

    @_wish("wanted_models")
    def _get_model(self, _wishes: int) -> None:
        """Fetch the model, because a person pressed the button."""
        if self.model["state"] not in ("absent", "failed"):
            return
        name, revision = tokenizer_source(self._config)
        self.model = {"state": "getting", "text": f"Getting {name}…"}

        def say(text: str) -> None:
            call_soon(lambda: setattr(self, "model", {"state": "getting", "text": text}))

        Task(
            lambda: find_model(name, revision, say=say),
            lambda _: self._find_tokenizer(),
            self._fail,
        )


def runs(tokens: Sequence[LensToken]) -> list[list[Any]]:
    """Return [kind, is trained, text] of each stretch of tokens that look the same."""
    looks = itertools.groupby(tokens, lambda token: (token.kind, token.label >= 0))
    return [[*look, "".join(token.text for token in group)] for look, group in looks]


def _between(tokens: Sequence[LensToken], begin: int, end: int) -> list[LensToken]:
    """Return the tokens that start at some positions of a row."""
    starts = itertools.accumulate((len(token.ids) for token in tokens), initial=0)
    return [token for start, token in zip(starts, tokens, strict=False) if begin <= start < end]


def _sent(row: LensRow | None, is_whole: bool) -> dict[str, Any]:
    """Return the parts of a row for the front end, without the end of a very long one."""
    parts: list[dict[str, Any]] = []
    has_tokens = row is not None and row.measure is not None
    room = _SENT_TOKENS if has_tokens else _SENT_CHARACTERS
    hidden = 0
    for part in row.parts if row else ():
        about = {"name": part.title, "side": part.side, "isTrained": part.is_trained}
        size = len(part.tokens) if has_tokens else len(part.text)
        fits = size if is_whole else min(size, room)
        hidden += size - fits
        room -= fits
        if has_tokens:
            tokens = [
                [token.text, token.ids, token.kind, token.label >= 0]
                for token in part.tokens[:fits]
            ]
            parts.append(about | {"tokens": tokens})
        else:
            parts.append(about | {"text": part.text[:fits]})
    note = ""
    if row is not None and row.is_merged:
        note = (
            "The tokenizer would join the end of the prompt and the beginning of the completion "
            "into one token; they are kept apart."
        )
    return {"parts": parts, "hasTokens": has_tokens, "hidden": hidden, "note": note}


def _known(split: str) -> str:
    """Return a split if it exists.

    Raises:
        DataError: There is no such split.
    """
    if split not in _SPLITS:
        known = ", ".join(_SPLITS)
        raise DataError(Problem("split", split, "is no split.", f"Use one of {known}."))
    return split


def _splits(config: Config) -> list[str]:
    """Return the splits that have rows."""
    data = config.data
    named = data.splits()
    is_cut = data.validation is None and data.split_ratio < 1 and not data.train.stream
    return [name for name in _SPLITS if name in named or (name == "validation" and is_cut)]
