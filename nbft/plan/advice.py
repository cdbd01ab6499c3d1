"""Recommended settings for a model, a dataset and a machine, each with its reason.

Seven steps; each yields its questions one at a time, so that a later one can depend on earlier
answers. `nbft.wizard` and the guided form ask them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nbft.config import Config, io
from nbft.data.examples import Examples
from nbft.data.lengths import KEPT_SHARES, enough_for
from nbft.data.ready import READY
from nbft.data.sources import FORMATS, spread
from nbft.decisions import choose_device
from nbft.errors import NbftError
from nbft.evaluate.final_number import states_number
from nbft.evaluate.forecast import metrics_of, reference_of
from nbft.formatting import count, size
from nbft.hardware import Choice, free_memory_bytes
from nbft.matmul_rate import low_type
from nbft.methods import SUITS, built_in_methods, method_of
from nbft.methods import Method as TrainingMethod
from nbft.methods.method import Kind
from nbft.models.find import find_described, find_local, find_tokenizer
from nbft.plan.memory import model_shape
from nbft.plan.rates import rates_of_method

Method = Literal["full", "lora", "qlora"]

METHODS: tuple[Method, ...] = ("full", "lora", "qlora")
"""Ordered from most to least memory."""

SETTINGS_OF: dict[str, dict[str, Any]] = {
    "full": {"peft.method": "full"},
    "lora": {"peft.method": "lora"},
    "qlora": {
        "peft.method": "lora",
        "quantization.load_in_4bit": True,
        "quantization.bnb_4bit_use_double_quant": True,
    },
}
"""Method → its settings."""

IN_MEMORY = "rows in memory"
"""Answer for the data of a config whose rows are in memory."""

_DATASET = "data.train.datasets[0]"

_ACTIVATIONS_BYTES = 2 * 2**30
_ROWS_PER_STEP = 16
_USUAL_ROWS_PER_STEP = (8, 32)
_SHORTEST_TOKENS = 128  # a shorter limit saves nothing: batches are padded to their longest row
_SHORT_CHARS = 100  # a sentence
_FEW_ROWS = 50
_FEW_HELD_OUT = 10
_ROWS_LOOKED_AT = 200
_MOSTLY = 0.95
_BUNDLED = "grammar"
_BUNDLED_ROWS = 1000


@dataclass(frozen=True)
class Machine:
    """The machine to train on.

    Attributes:
        device: Its device, with the reason.
        free_bytes: Free memory of the device.
        has_16_bits: Whether it holds frozen weights in 16 bits.
    """

    device: Choice
    free_bytes: int
    has_16_bits: bool


@dataclass(frozen=True)
class Question:
    """A setting to ask for.

    Attributes:
        path: Its path, or "method" (full, lora or qlora) or "data".
        value: The recommended value.
        reason: What to know about it, true of other values too. A sentence.
        usual: Lowest and highest value for which the reason holds as well, or None.
        is_free: Whether any value is as good: the recommended one is only a start.
    """

    path: str
    value: Any
    reason: str
    usual: tuple[float, float] | None = None
    is_free: bool = False

    def suits(self, value: Any) -> bool:
        """Whether a value is as good as the recommended one."""
        if self.is_free or value == self.value:
            return True
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return bool(self.usual and is_number and self.usual[0] <= value <= self.usual[1])


@dataclass(frozen=True)
class KnownRows:
    """What is known of the rows to train on; None for what is not.

    Attributes:
        count: How many there are.
        long_tokens: The length that 99% of them do not exceed, in tokens.
        kind: What they hold.
    """

    count: int | None = None
    long_tokens: int | None = None
    kind: Kind | None = None


Answers = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One of the seven steps.

    Attributes:
        title: Name of the step.
        about: Introduction, in two sentences.
        questions: Yields the questions, given the answers so far (which grow in between).
    """

    title: str
    about: str
    questions: Callable[[Answers, Machine], Iterator[Question]]


def this_machine(config: Config | None = None) -> Machine:
    """Describe this machine, with the device of a config or the best available one."""
    device = choose_device(config or Config())
    has_16_bits = bool(low_type(device.value).value)
    return Machine(device, free_memory_bytes(device.value), has_16_bits)


def parameters_of(model_name: str) -> int | None:
    """Return a model's parameters: counted if it is known here, else read from its name.

    >>> parameters_of("someone/Model-7B-Instruct"), parameters_of("a/b")
    (7000000000, None)
    """
    model = find_described(model_name)
    if model and (shape := model_shape(model)):
        return shape.parameters
    match = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", model_name.lower())
    return round(float(match[1]) * {"b": 1e9, "m": 1e6}[match[2]]) if match else None


def needed_bytes(method: str, parameters: int, *, has_16_bits: bool) -> int:
    """Estimate the memory of a method in bytes, before the rows are known.

    Full: weights, gradients and two moments in float32. LoRA and similar: the weights plus 10%.
    QLoRA: half a byte per weight and the scales. Each with 2 GiB for activations and libraries.

    >>> needed_bytes("full", 1_000_000_000, has_16_bits=True) - 2 * 2**30
    16000000000
    """
    a_weight = {"full": 16.0, "qlora": 0.65}.get(method, 2.2 if has_16_bits else 4.4)
    return round(parameters * a_weight) + _ACTIVATIONS_BYTES


def choose_method(wanted: str, parameters: int | None, machine: Machine) -> Choice:
    """Choose full, lora or qlora by Oumi's guide to model sizes and by what fits this machine.

    Full training below 3 billion parameters, LoRA up to 13 billion, QLoRA above; then the next
    smaller method as long as one does not fit. Never full training on a CPU.

    Args:
        wanted: A method, or auto.
        parameters: Parameters of the model; None if unknown.
        machine: The machine to train on.
    """
    if wanted != "auto":
        return Choice(wanted, "as requested")
    if parameters is None:
        return Choice("lora", "the size of the model is unknown, and an adapter suits most sizes")
    if parameters < 3e9:
        method, sizes, name = "full", "below 3 billion", "full training"
    elif parameters <= 13e9:
        method, sizes, name = "lora", "from 3 to 13 billion", "LoRA"
    else:
        method, sizes, name = "qlora", "above 13 billion", "QLoRA"
    why = f"{_in_words(parameters)} parameters: {sizes} Oumi's guide recommends {name}"
    if method == "full" and machine.device.value == "cpu":
        method, why = "lora", f"{why} on a GPU, but an adapter trains faster on a CPU"
    for name in METHODS[METHODS.index(method) :]:
        needed = needed_bytes(name, parameters, has_16_bits=machine.has_16_bits)
        if needed <= machine.free_bytes:
            return Choice(
                name, f"{why}; it needs about {size(needed)} of {size(machine.free_bytes)} free"
            )
        why += f"; {name} needs about {size(needed)}"
    return Choice(
        "qlora", f"{why}; only {size(machine.free_bytes)} are free, so use a smaller model"
    )


def _in_words(parameters: int) -> str:
    if parameters < 1e9:
        return f"{parameters / 1e6:.3g} million"
    return f"{parameters / 1e9:.3g} billion"


def _model(answers: Answers, machine: Machine) -> Iterator[Question]:
    yield Question(
        "model.model_name",
        "smollm2-135m",
        "A small model that needs no account and trains in minutes on any machine.",
        is_free=True,
    )


def _data(answers: Answers, machine: Machine) -> Iterator[Question]:
    yield Question("data", _BUNDLED, "A bundled sample to try things out.", is_free=True)
    if str(answers["data"]) in READY:
        enough = f"{_BUNDLED_ROWS} rows are enough to see the loss fall."
        yield Question(f"{_DATASET}.sample_count", _BUNDLED_ROWS, enough, is_free=True)


def _algorithm(answers: Answers, machine: Machine) -> Iterator[Question]:
    choice = choose_method("auto", parameters_of(answers["model.model_name"]), machine)
    reason = f"{choice.reason[:1].upper()}{choice.reason[1:]}."
    yield Question("method", choice.value, reason)
    kind = (answers.get("rows") or _rows_of(answers)).kind
    if why := _FROM_BOTH.get(kind or "pair"):
        yield Question("training.method", SUITS[kind or "pair"], why)


_FROM_BOTH: dict[Kind, str] = {
    "preference": "Your rows have a better and a worse answer each: dpo makes the better ones likelier "
    "than the worse ones, and sft would read the better ones only. To begin with sft is usual where "
    "the model cannot do the task yet.",
    "feedback": "Your rows have answers that are labelled good or bad: kto learns from both, and sft "
    "would read the good ones only.",
}
"""Why a method suits rows with bad answers."""


def _learns_from_bad(answers: Answers) -> TrainingMethod | None:
    """Return the training method that is asked for, if it learns from bad answers, too."""
    found = built_in_methods().get(answers.get("training.method", ""))
    return found if found is not None and found.uses_labels else None


def _preference_rate(method: str, trains: TrainingMethod) -> Question:
    usual = rates_of_method(trains)["full" if method == "full" else "lora"]
    why = f"Learning from bad answers needs a lower rate than imitation: {usual.usual}."
    low, high = usual.lowest, usual.highest
    return Question("training.learning_rate", usual.proposed, why, (low, high))


def _hyperparameters(answers: Answers, machine: Machine) -> Iterator[Question]:
    method, rows = answers["method"], answers.get("rows") or _rows_of(answers)
    parameters = parameters_of(answers["model.model_name"]) or 7 * 10**9
    yield epochs(rows.count)
    if (trains := _learns_from_bad(answers)) is not None:
        yield _preference_rate(method, trains)
    else:
        yield _rate(method, parameters)
    yield from _batches(method, answers)
    yield _length(rows.long_tokens, machine)
    if method not in ("full", "ia3"):
        yield Question(
            "peft.r",
            16,
            "A higher rank can learn more but needs more rows: 8 to 32 suits most tasks, and Oumi's "
            "recipe has 16.",
            (8, 32),
        )
        rank = max(1, int(answers["peft.r"]))
        why = "Scales what the adapter adds: the rank or twice the rank is usual."
        yield Question("peft.lora_alpha", 2 * rank, why, (rank, 2 * rank))
    needed = needed_bytes(method, parameters, has_16_bits=machine.has_16_bits)
    is_tight = needed > machine.free_bytes / 2
    yield Question(
        "memory.gradient_checkpointing",
        is_tight,
        "Saves 30 to 40% of the memory but takes 20 to 30% more time (PEFT Studio). This run needs "
        f"{'more' if is_tight else 'less'} than half of the free memory.",
    )


def epochs(rows: int | None) -> Question:
    """Return how often to go over some rows.

    Source: PEFT Studio has 3 to 5 for small datasets, 1 to 2 for large ones; Unsloth 1 to 5.
    """
    path = "training.num_train_epochs"
    if rows is None:
        why = "The rows are not counted yet, and one pass over them is a safe start."
        return Question(path, 1.0, why, (1, 3))
    epochs, usual, why = 1, (1, 2), "1 to 2 passes over them are enough"
    if rows < 50_000:
        epochs, usual, why = 2, (1, 3), "1 to 3 passes over them suit a dataset of this size"
    if rows < 5_000:
        epochs, usual, why = 3, (2, 5), "a small dataset needs 2 to 5 passes over it"
    return Question(path, epochs, f"{count(rows, 'row')} to train on: {why}.", usual)


def metrics(config: Config) -> Question:
    """Return what to measure of the answers to held-out rows; None if their dataset says it."""
    from nbft.plan.plan import read_examples  # here, because the plan takes advice itself

    path = "evaluation.metrics"
    unset = config.apply({path: None})
    if metrics_of(unset):
        return Question(path, None, "Those that suit the dataset.")
    try:
        rows = read_examples(unset, "train", None)[0]
    except NbftError as error:
        return Question(path, None, str(error))
    wanted = [reference_of(rows[n]) for n in spread(len(rows), _ROWS_LOOKED_AT).tolist()]
    short = [len(text) <= _SHORT_CHARS and "\n" not in text for text in wanted]
    if all(map(states_number, wanted)):
        return Question(path, ["exact_match"], "the wanted answers state a number.")
    if sum(short) >= _MOSTLY * len(short):
        return Question(path, ["exact_match"], "the wanted answers are short.")
    why = "the wanted answers are long, so there is more than one right wording."
    return Question(path, ["perplexity"], why)


def few_rows(train_rows: int, eval_rows: int) -> str:
    """Say where so few rows are trained on or held out that they say little; "" otherwise.

    Source: Unsloth's guide to datasets, which asks for at least 100 rows.
    """
    if train_rows >= _FEW_ROWS and not 0 < eval_rows < _FEW_HELD_OUT:
        return ""
    rows = f"{count(train_rows, 'row')} to train on"
    rows += f" and {eval_rows} held out" if eval_rows else ""
    return (
        f"{rows} are few: a model learns their wording and little else, and what is measured on fewer "
        f"than {_FEW_HELD_OUT} rows is mostly luck. Unsloth's guide asks for at least 100 rows."
    )


def _rate(method: str, parameters: int) -> Question:
    path = "training.learning_rate"
    if method == "full":
        why = "1e-5 to 5e-5 is usual when every weight is trained; Oumi's recipe has 2e-5."
        return Question(path, 2e-5, why, (1e-5, 5e-5))
    if parameters < 1e9:
        why = "Small models need a higher rate than large ones: 1e-4 to 5e-4 is usual for LoRA."
        return Question(path, 3e-4, why, (1e-4, 5e-4))
    if parameters < 3e9:
        why = "1e-4 to 5e-4 is usual for LoRA; QLoRA (arXiv:2305.14314, appendix B) has 2e-4."
        return Question(path, 2e-4, why, (1e-4, 5e-4))
    why = "Large models need a lower rate: Oumi's recipe has 1e-4, Unsloth's guide 5e-5 to 1e-4."
    return Question(path, 1e-4, why, (5e-5, 2e-4))


def _batches(method: str, answers: Answers) -> Iterator[Question]:
    path, start = "training.per_device_train_batch_size", 4
    why = "More rows at once are faster on a GPU but need more memory; Oumi's recipe has 4."
    if method in ("full", "qlora"):
        start = 1
        why = (
            "More rows at once need more memory, of which the weights leave little; Oumi and PEFT "
            "Studio begin with 1."
        )
    yield Question(path, start, why, (1, 64))
    batch = max(1, int(answers[path]))
    fewest, most = _USUAL_ROWS_PER_STEP
    yield Question(
        "training.gradient_accumulation_steps",
        max(1, _ROWS_PER_STEP // batch),
        f"Each step learns from {count(batch, 'row')} times this number; {fewest} to {most} rows "
        "are usual.",
        (-(-fewest // batch), max(1, most // batch)),
    )


def _length(long_tokens: int | None, machine: Machine) -> Question:
    path = "data.max_length"
    if long_tokens is not None:
        enough = max(_SHORTEST_TOKENS, 1 << (long_tokens - 1).bit_length())
        why = f"99% of your rows have at most {long_tokens:,} tokens; longer rows are cut off."
        return Question(path, enough, why, (long_tokens, float("inf")))
    if machine.device.value == "cpu":
        why = "Longer rows are cut off, and they are slow on a CPU."
        return Question(path, 512, why, (256, 1024))
    return Question(path, 1024, "Longer rows are cut off; 1,024 fits most data.", (512, 8192))


def _compute(answers: Answers, machine: Machine) -> Iterator[Question]:
    is_asked = answers.get("compute.device", "auto") != "auto"
    best = choose_device(Config()) if is_asked else machine.device
    why = f"On this machine, auto is {best}."
    yield Question("compute.device", "auto", why, is_free=True)
    why = "Training runs on this machine; the others only show what renting a GPU would cost."
    yield Question("compute.provider", "local", why, is_free=True)


def dataset_of(given: str) -> dict[str, Any]:
    """Return the settings of a dataset, given a file or a name.

    >>> dataset_of("samsum")
    {'data.train.datasets[0].dataset_name': 'samsum'}
    """
    is_file = given not in READY and (
        Path(given).expanduser().exists() or Path(given).suffix.lower() in FORMATS
    )
    return {f"{_DATASET}.{'path' if is_file else 'dataset_name'}": given}


def settings_of(path: str, value: Any) -> dict[str, Any]:
    """Return the settings of an answer.

    >>> settings_of("method", "full"), settings_of("peft.r", 8)
    ({'peft.method': 'full'}, {'peft.r': 8})
    """
    if path == "method":
        return SETTINGS_OF[value]
    return dataset_of(value) if path == "data" else {path: value}


def settings_asked(path: str) -> tuple[str, ...]:
    """Return the paths of the settings that a question sets.

    >>> settings_asked("data")
    ('data.train.datasets[0].path', 'data.train.datasets[0].dataset_name')
    """
    if path == "method":
        return tuple(SETTINGS_OF["qlora"])
    return (f"{_DATASET}.path", f"{_DATASET}.dataset_name") if path == "data" else (path,)


def answers_of(config: Config) -> dict[str, Any]:
    """Return the answers that a config contains, and its number of rows if known."""
    answers = io.flatten(config.to_dict(full=True))
    answers["method"], bits = config.peft.method, config.quantization.bits
    if bits and answers["method"] == "lora":
        answers["method"] = "qlora" if bits == 4 else f"lora in {bits} bits"
    answers["data"], answers["rows"] = "", KnownRows()
    if datasets := config.data.train.datasets:
        first = datasets[0]
        named = first.path or first.dataset_name or ""
        answers["data"] = named if first.rows is None else IN_MEMORY
        answers["rows"] = known_rows(config)
    return answers


def known_rows(config: Config) -> KnownRows:
    """Return what is known of the rows of a config; nothing if they cannot be read."""
    from nbft.plan.plan import read_examples  # here, because the plan takes advice itself

    try:
        examples, _ = read_examples(config, "train", None)
        if examples.is_stream:
            return KnownRows()
        model = find_local(config.model.model_name, config.model.model_revision)
        tokenizer = find_tokenizer(config.model, model.path if model else None)
        return _measured(_Same(examples), method_of(config), tokenizer)
    except NbftError:
        return KnownRows()


class _Same:
    """Rows as the key of a cache: equal only to the very same ones."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.examples is other.examples

    def __hash__(self) -> int:
        return id(self.examples)


@functools.lru_cache(maxsize=1)  # asked again after every answer, mostly of the same rows
def _measured(rows: _Same, method: TrainingMethod, tokenizer: Path | None) -> KnownRows:
    from nbft.plan.plan import token_lengths

    lengths = token_lengths(rows.examples, method, tokenizer)
    long = enough_for(lengths, KEPT_SHARES[-1])
    return KnownRows(len(rows.examples), long, rows.examples.parts[0].kind)


def _rows_of(answers: Answers) -> KnownRows:
    """Return what is known of the rows that were answered, if they are on this machine."""
    given = str(answers["data"])
    if not given or (given not in READY and not Path(given).expanduser().exists()):
        return KnownRows()
    try:
        changes = (settings_of(path, value) for path, value in answers.items())
        return known_rows(Config().apply({p: v for some in changes for p, v in some.items()}))
    except NbftError:
        return KnownRows()


def _tracking(answers: Answers, machine: Machine) -> Iterator[Question]:
    why = "nbft keeps a log and charts of every run, so no tracker is needed."
    yield Question("tracking.report_to", [], why, is_free=True)


def _review(answers: Answers, machine: Machine) -> Iterator[Question]:
    why = "Every run gets a folder of its own in this one."
    yield Question("training.output_dir", "runs", why, is_free=True)


STEPS = (
    Step(
        "Model",
        "Choose the base model to fine-tune: a name on the hub, a folder, or smollm2-135m. Larger "
        "models give better answers but need more memory and time.",
        _model,
    ),
    Step(
        "Data",
        "Choose what to train on: a file of your own, a dataset on the hub, or one of the samples "
        "alpaca, samsum, gsm8k and grammar. A tenth of the rows is held out to see how well the "
        "model does on rows that it was not trained on.",
        _data,
    ),
    Step(
        "Algorithm",
        "full trains every weight of the model, lora a small adapter; qlora is lora with the model "
        "loaded in 4 bits. An adapter needs a fraction of the memory and takes only a few MB to "
        "store.",
        _algorithm,
    ),
    Step(
        "Hyperparameters",
        "These settings control how fast the model learns, and from how many rows at a time. The "
        "recommended values depend on your model, your rows and this machine.",
        _hyperparameters,
    ),
    Step(
        "Compute",
        "The device decides how fast the training is and which models fit. With auto, nbft takes the "
        "best one that it finds.",
        _compute,
    ),
    Step(
        "Tracking",
        "A tracker, such as wandb or tensorboard, shows your runs in another place. It has to be "
        "installed first; without a login it works offline.",
        _tracking,
    ),
    Step(
        "Review and launch",
        "The settings are checked against the model, the data and this machine. Training starts "
        "only when you confirm it.",
        _review,
    ),
)
"""The steps, in order.

Source: PEFT Studio, wizard_steps; there the data come fifth. Here they come second, because people
bring them, and the values of later steps depend on them.
"""
