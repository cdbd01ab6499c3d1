"""Smart defaults: what suits a model, some rows and a machine, each value with its reason.

Seven steps, as PEFT Studio's wizard has them; each yields its questions one at a time, so that a
later one goes by the answers before it. Asks nobody and writes nothing: `nbft.wizard` does, and
the guided form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nbft.config import Config, io
from nbft.data.examples import load_examples
from nbft.data.ready import READY
from nbft.data.sources import FORMATS
from nbft.decisions import choose_device
from nbft.errors import NbftError
from nbft.formatting import count, size
from nbft.hardware import Choice, free_memory_bytes, has_bfloat16
from nbft.models.find import find_local
from nbft.plan.memory import model_shape

Method = Literal["full", "lora", "qlora"]

METHODS: tuple[Method, ...] = ("full", "lora", "qlora")
"""From the most memory to the least."""

SETTINGS_OF: dict[str, dict[str, Any]] = {
    "full": {"peft.method": "full"},
    "lora": {"peft.method": "lora"},
    "qlora": {
        "peft.method": "lora",
        "quantization.load_in_4bit": True,
        "quantization.bnb_4bit_use_double_quant": True,
    },
}
"""Method → what it is in the settings."""

IN_MEMORY = "rows in memory"
"""The answer where a config has no file and no name of its rows."""

_DATASET = "data.train.datasets[0]"

_ACTIVATIONS_BYTES = 2 * 2**30
_ROWS_OF_A_TURN = 16
_BUNDLED = "alpaca"
_BUNDLED_ROWS = 240


@dataclass(frozen=True)
class Machine:
    """What trains.

    Attributes:
        device: Its device, with the reason.
        free_bytes: Memory that is free on it.
        has_bfloat16: Whether it computes in 16 bits.
    """

    device: Choice
    free_bytes: int
    has_bfloat16: bool


@dataclass(frozen=True)
class Question:
    """A setting to ask for.

    Attributes:
        path: Its path; "method" for full, lora or qlora.
        value: The smart default.
        reason: The rule that chose it, as a sentence.
    """

    path: str
    value: Any
    reason: str


Answers = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One of the seven steps.

    Attributes:
        title: As PEFT Studio calls it.
        about: What it is about, in two sentences.
        questions: Yields them from the answers so far, which may grow between two of them.
    """

    title: str
    about: str
    questions: Callable[[Answers, Machine], Iterator[Question]]


def this_machine(config: Config | None = None) -> Machine:
    """Look at this machine, with the device of a config or the best there is."""
    device = choose_device(config or Config())
    has_16 = has_bfloat16(device.value).value == "yes"
    return Machine(device, free_memory_bytes(device.value), has_16)


def parameters_of(model_name: str) -> int | None:
    """Return a model's parameters: counted if it is here, else read from its name.

    >>> parameters_of("someone/Model-7B-Instruct"), parameters_of("a/b")
    (7000000000, None)
    """
    found = find_local(model_name)
    shape = model_shape(found.path) if found else None
    if shape:
        return shape.parameters
    match = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", model_name.lower())
    return round(float(match[1]) * {"b": 1e9, "m": 1e6}[match[2]]) if match else None


def needed_bytes(method: str, parameters: int, *, has_bfloat16: bool) -> int:
    """Estimate roughly what a method needs, before the rows are known.

    Full: weights, gradients and two moments in float32. LoRA, and what is like it: the weights and
    a tenth. QLoRA: half a byte and the scales. Each with 2 GiB for activations and libraries.

    >>> needed_bytes("full", 1_000_000_000, has_bfloat16=True) - 2 * 2**30
    16000000000
    """
    a_weight = {"full": 16.0, "qlora": 0.65}.get(method, 2.2 if has_bfloat16 else 4.4)
    return round(parameters * a_weight) + _ACTIVATIONS_BYTES


def choose_method(wanted: str, parameters: int | None, machine: Machine) -> Choice:
    """Choose full, lora or qlora by Oumi's guide to sizes, and by what fits this machine.

    Below 3 billion parameters full training, up to 13 billion LoRA, above QLoRA; then the next
    smaller method while one does not fit. On a CPU never full training.

    Args:
        wanted: A method, or auto.
        parameters: The model's; None where they are not known.
        machine: The machine that trains.
    """
    if wanted != "auto":
        return Choice(wanted, "as asked")
    if parameters is None:
        return Choice("lora", "the model's size is not known, and an adapter suits most sizes")
    billions = f"{_in_words(parameters)} parameters"
    if parameters < 3e9:
        method, why = "full", f"{billions}: below 3 billion Oumi's guide has full training"
    elif parameters <= 13e9:
        method, why = "lora", f"{billions}: from 3 to 13 billion Oumi's guide has LoRA"
    else:
        method, why = "qlora", f"{billions}: above 13 billion Oumi's guide has QLoRA"
    if method == "full" and machine.device.value == "cpu":
        method, why = "lora", f"{why} on a GPU, and an adapter learns sooner on a CPU"
    for name in METHODS[METHODS.index(method) :]:
        needed = needed_bytes(name, parameters, has_bfloat16=machine.has_bfloat16)
        if needed <= machine.free_bytes:
            return Choice(name, f"{why}; about {size(needed)} of {size(machine.free_bytes)} free")
        why += f"; {name} needs about {size(needed)}"
    return Choice("qlora", f"{why}; {size(machine.free_bytes)} are free, so take a smaller model")


def _in_words(parameters: int) -> str:
    if parameters < 1e9:
        return f"{parameters / 1e6:.3g} million"
    return f"{parameters / 1e9:.3g} billion"


def _model(answers: Answers, machine: Machine) -> Iterator[Question]:
    yield Question(
        "model.model_name",
        "smollm2-135m",
        "It needs no account and trains on any machine in minutes.",
    )


def _algorithm(answers: Answers, machine: Machine) -> Iterator[Question]:
    choice = choose_method("auto", parameters_of(answers["model.model_name"]), machine)
    yield Question("method", choice.value, f"{choice.reason}.")


def _hyperparameters(answers: Answers, machine: Machine) -> Iterator[Question]:
    method = answers["method"]
    parameters = parameters_of(answers["model.model_name"]) or 7 * 10**9
    yield Question("training.learning_rate", *_rate(method, parameters))
    batch, why = (1, "Little memory is left beside the weights; Oumi's and PEFT Studio's recipes.")
    if method not in ("full", "qlora"):
        batch, why = 4, "Oumi's LoRA recipe."
    yield Question("training.per_device_train_batch_size", batch, why)
    batch = max(1, int(answers["training.per_device_train_batch_size"]))
    yield Question(
        "training.gradient_accumulation_steps",
        max(1, _ROWS_OF_A_TURN // batch),
        f"Makes about {_ROWS_OF_A_TURN} rows a step with a batch of {batch}.",
    )
    if method not in ("full", "ia3"):
        yield Question("peft.r", 16, "8 to 16 suits most tasks; Oumi's LoRA recipe.")
        rank = max(1, int(answers["peft.r"]))
        yield Question("peft.lora_alpha", 2 * rank, "Twice the rank, as is usual.")
    needed = needed_bytes(method, parameters, has_bfloat16=machine.has_bfloat16)
    is_tight = needed > machine.free_bytes / 2
    yield Question(
        "memory.gradient_checkpointing",
        is_tight,
        "Saves 30 to 40% of the memory for 20 to 30% more time (PEFT Studio); "
        + ("more than half of it is needed." if is_tight else "less than half of it is needed."),
    )


def _rate(method: str, parameters: int) -> tuple[float, str]:
    if method == "full":
        return 2e-5, "Oumi's recipe for full training; 1e-5 to 5e-5 is usual."
    if parameters < 1e9:
        return 3e-4, "Small models take more than large ones; for LoRA 1e-4 to 5e-4 is usual."
    if parameters < 3e9:
        return 2e-4, "QLoRA, arXiv:2305.14314, appendix B."
    return 1e-4, "Oumi's LoRA recipe; Unsloth's guide has 5e-5 to 1e-4."


def _compute(answers: Answers, machine: Machine) -> Iterator[Question]:
    is_asked = answers.get("compute.device", "auto") != "auto"
    best = choose_device(Config()) if is_asked else machine.device
    yield Question("compute.device", "auto", f"Takes {best} here.")
    yield Question("compute.provider", "local", "Only local trains; the others tell the cost.")


def _data(answers: Answers, machine: Machine) -> Iterator[Question]:
    yield Question("data", _BUNDLED, "A bundled sample, so that the run works as it is.")
    given = str(answers["data"])
    if given in READY:
        yield Question(f"{_DATASET}.sample_count", _BUNDLED_ROWS, "Enough to see a loss fall.")
    rows = answers.get("rows") or _rows_of(given, answers.get(f"{_DATASET}.sample_count"))
    yield Question("training.num_train_epochs", *_epochs(rows))
    length = 512 if machine.device.value == "cpu" else 1024
    why = "Longer rows take long on a CPU." if length == 512 else "Holds most instructions."
    yield Question("data.max_length", length, why)


def dataset_of(given: str) -> dict[str, Any]:
    """Return the settings of rows given as a file or as a name.

    >>> dataset_of("samsum")
    {'data.train.datasets[0].dataset_name': 'samsum'}
    """
    is_file = given not in READY and (
        Path(given).expanduser().exists() or Path(given).suffix.lower() in FORMATS
    )
    return {f"{_DATASET}.{'path' if is_file else 'dataset_name'}": given}


def settings_of(path: str, value: Any) -> dict[str, Any]:
    """Return what the answer to a question is in the settings.

    >>> settings_of("method", "full"), settings_of("peft.r", 8)
    ({'peft.method': 'full'}, {'peft.r': 8})
    """
    if path == "method":
        return SETTINGS_OF[value]
    return dataset_of(value) if path == "data" else {path: value}


def settings_asked(path: str) -> tuple[str, ...]:
    """Return the settings that a question is about.

    >>> settings_asked("data")
    ('data.train.datasets[0].path', 'data.train.datasets[0].dataset_name')
    """
    if path == "method":
        return tuple(SETTINGS_OF["qlora"])
    return (f"{_DATASET}.path", f"{_DATASET}.dataset_name") if path == "data" else (path,)


def answers_of(config: Config) -> dict[str, Any]:
    """Return what a config answers to the questions, and how many rows it trains on if known."""
    answers = io.flatten(config.to_dict(full=True))
    answers["method"], bits = config.peft.method, config.quantization.bits
    if bits and answers["method"] == "lora":
        answers["method"] = "qlora" if bits == 4 else f"lora in {bits} bits"
    answers["data"] = ""
    if datasets := config.data.train.datasets:
        first = datasets[0]
        named = first.path or first.dataset_name or ""
        answers["data"] = named if first.rows is None else IN_MEMORY
        answers["rows"] = _rows_read(config)
    return answers


def _rows_read(config: Config) -> int | None:
    from nbft.plan.plan import read_examples  # here, because the plan takes advice itself

    try:
        examples, _ = read_examples(config, "train", None)
        return None if examples.is_stream else len(examples)
    except NbftError:
        return None


def _rows_of(given: str, wanted: Any) -> int | None:
    """Count rows that are on this machine; None where they are not, or cannot be read."""
    if isinstance(wanted, int):
        return wanted
    if not given or (given not in READY and not Path(given).expanduser().exists()):
        return None
    try:
        return len(load_examples(Config().apply(dataset_of(given)), "train")[0])
    except NbftError:
        return None


def _epochs(rows: int | None) -> tuple[float, str]:
    if rows is None:
        return 1, "The rows are not counted yet; one pass is a safe start."
    said = count(rows, "row")
    if rows < 5_000:
        return 3, f"{said} to train on: small sets want 3 to 5 passes."
    if rows < 50_000:
        return 2, f"{said} to train on: 1 to 2 passes for a set of this size."
    return 1, f"{said} to train on: large sets need one pass."


def _tracking(answers: Answers, machine: Machine) -> Iterator[Question]:
    yield Question("tracking.report_to", [], "The run keeps its own log and curves.")


def _review(answers: Answers, machine: Machine) -> Iterator[Question]:
    yield Question("training.output_dir", "runs", "Every run gets a folder of its own in it.")


STEPS = (
    Step(
        "Model",
        "The base model is what is tuned: a name on the hub, a folder, or smollm2-135m. A larger "
        "model answers better and needs more memory and time.",
        _model,
    ),
    Step(
        "Algorithm",
        "full trains every weight, lora a small adapter beside them, and qlora the same on weights "
        "in 4 bits. An adapter needs a fraction of the memory and is a few MB to keep.",
        _algorithm,
    ),
    Step(
        "Hyperparameters",
        "They say how fast and on how many rows at a time it learns. The defaults go by the "
        "method and the size of the model.",
        _hyperparameters,
    ),
    Step(
        "Compute",
        "The device that trains decides the speed and what fits. auto takes the best one here.",
        _compute,
    ),
    Step(
        "Data",
        "The rows are what it learns: a file, a name on the hub, or alpaca, samsum, gsm8k, "
        "grammar. Some of them are held out to measure it.",
        _data,
    ),
    Step(
        "Tracking",
        "Trackers such as wandb or tensorboard show runs elsewhere. Each must be installed.",
        _tracking,
    ),
    Step(
        "Review and launch",
        "The settings are checked with the model, the rows and this machine. Nothing is trained "
        "before you say so.",
        _review,
    ),
)
"""The steps, in their order. Source: PEFT Studio, wizard_steps."""
