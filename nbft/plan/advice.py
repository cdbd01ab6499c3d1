"""Recommended settings for a model, a dataset and a machine, each with its reason.

Seven steps, as in PEFT Studio's wizard; each yields its questions one at a time, so that a later
one can depend on earlier answers. `nbft.wizard` and the guided form ask them.
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
_BUNDLED = "grammar"
_BUNDLED_ROWS = 1000


@dataclass(frozen=True)
class Machine:
    """The machine to train on.

    Attributes:
        device: Its device, with the reason.
        free_bytes: Free memory of the device.
        has_bfloat16: Whether the device supports bfloat16.
    """

    device: Choice
    free_bytes: int
    has_bfloat16: bool


@dataclass(frozen=True)
class Question:
    """A setting to ask for.

    Attributes:
        path: Its path, or "method" (full, lora or qlora) or "data".
        value: The recommended value.
        reason: Why it is recommended. A sentence.
    """

    path: str
    value: Any
    reason: str


Answers = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One of the seven steps.

    Attributes:
        title: Name of the step in PEFT Studio.
        about: Introduction, in two sentences.
        questions: Yields the questions, given the answers so far (which grow in between).
    """

    title: str
    about: str
    questions: Callable[[Answers, Machine], Iterator[Question]]


def this_machine(config: Config | None = None) -> Machine:
    """Describe this machine, with the device of a config or the best available one."""
    device = choose_device(config or Config())
    has_16 = has_bfloat16(device.value).value == "yes"
    return Machine(device, free_memory_bytes(device.value), has_16)


def parameters_of(model_name: str) -> int | None:
    """Return a model's parameters: counted if it is on this machine, else read from its name.

    >>> parameters_of("someone/Model-7B-Instruct"), parameters_of("a/b")
    (7000000000, None)
    """
    model = find_local(model_name)
    if model and (shape := model_shape(model.path)):
        return shape.parameters
    match = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", model_name.lower())
    return round(float(match[1]) * {"b": 1e9, "m": 1e6}[match[2]]) if match else None


def needed_bytes(method: str, parameters: int, *, has_bfloat16: bool) -> int:
    """Estimate the memory of a method in bytes, before the rows are known.

    Full: weights, gradients and two moments in float32. LoRA and similar: the weights plus 10%.
    QLoRA: half a byte per weight and the scales. Each with 2 GiB for activations and libraries.

    >>> needed_bytes("full", 1_000_000_000, has_bfloat16=True) - 2 * 2**30
    16000000000
    """
    a_weight = {"full": 16.0, "qlora": 0.65}.get(method, 2.2 if has_bfloat16 else 4.4)
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
        needed = needed_bytes(name, parameters, has_bfloat16=machine.has_bfloat16)
        if needed <= machine.free_bytes:
            return Choice(name, f"{why}; about {size(needed)} of {size(machine.free_bytes)} free")
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
        "Needs no account and trains on any machine in minutes.",
    )


def _algorithm(answers: Answers, machine: Machine) -> Iterator[Question]:
    choice = choose_method("auto", parameters_of(answers["model.model_name"]), machine)
    yield Question("method", choice.value, f"{choice.reason}.")


def _hyperparameters(answers: Answers, machine: Machine) -> Iterator[Question]:
    method = answers["method"]
    parameters = parameters_of(answers["model.model_name"]) or 7 * 10**9
    yield Question("training.learning_rate", *_rate(method, parameters))
    batch, why = 4, "Oumi's LoRA recipe."
    if method in ("full", "qlora"):
        batch, why = 1, "The weights leave little memory; Oumi's and PEFT Studio's recipes."
    yield Question("training.per_device_train_batch_size", batch, why)
    batch = max(1, int(answers["training.per_device_train_batch_size"]))
    yield Question(
        "training.gradient_accumulation_steps",
        max(1, _ROWS_PER_STEP // batch),
        f"Gives about {_ROWS_PER_STEP} rows per step with a batch of {batch}.",
    )
    if method not in ("full", "ia3"):
        yield Question("peft.r", 16, "8 to 16 suits most tasks; Oumi's LoRA recipe.")
        rank = max(1, int(answers["peft.r"]))
        yield Question("peft.lora_alpha", 2 * rank, "Twice the rank, the usual choice.")
    needed = needed_bytes(method, parameters, has_bfloat16=machine.has_bfloat16)
    is_tight = needed > machine.free_bytes / 2
    yield Question(
        "memory.gradient_checkpointing",
        is_tight,
        "Saves 30 to 40% of the memory but takes 20 to 30% more time (PEFT Studio); this run needs "
        f"{'more' if is_tight else 'less'} than half of the free memory.",
    )


def _rate(method: str, parameters: int) -> tuple[float, str]:
    if method == "full":
        return 2e-5, "Oumi's recipe for full training; 1e-5 to 5e-5 is usual."
    if parameters < 1e9:
        return (
            3e-4,
            "Small models need a higher rate than large ones; 1e-4 to 5e-4 is usual for LoRA.",
        )
    if parameters < 3e9:
        return 2e-4, "QLoRA, arXiv:2305.14314, appendix B."
    return 1e-4, "Oumi's LoRA recipe; Unsloth's guide recommends 5e-5 to 1e-4."


def _compute(answers: Answers, machine: Machine) -> Iterator[Question]:
    is_asked = answers.get("compute.device", "auto") != "auto"
    best = choose_device(Config()) if is_asked else machine.device
    yield Question("compute.device", "auto", f"Uses {best} on this machine.")
    yield Question(
        "compute.provider", "local", "Only local can train; the others estimate the cost."
    )


def _data(answers: Answers, machine: Machine) -> Iterator[Question]:
    yield Question("data", _BUNDLED, "A bundled sample that works right away.")
    given = str(answers["data"])
    if given in READY:
        yield Question(
            f"{_DATASET}.sample_count", _BUNDLED_ROWS, "Enough to see the answers change."
        )
    rows = answers.get("rows") or _rows_of(given, answers.get(f"{_DATASET}.sample_count"))
    yield Question("training.num_train_epochs", *_epochs(rows))
    length, why = 1024, "Fits most instruction data."
    if machine.device.value == "cpu":
        length, why = 512, "Longer rows are slow on a CPU."
    yield Question("data.max_length", length, why)


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
    """Count the rows of a dataset on this machine; None if it is not here or unreadable."""
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
        return 1, "The rows are not counted yet; one epoch is a safe start."
    epochs, why = 1, "large datasets need only 1 epoch"
    if rows < 50_000:
        epochs, why = 2, "1 to 2 epochs suit a dataset of this size"
    if rows < 5_000:
        epochs, why = 3, "small datasets need 3 to 5 epochs"
    return epochs, f"{count(rows, 'row')} to train on: {why}."


def _tracking(answers: Answers, machine: Machine) -> Iterator[Question]:
    yield Question("tracking.report_to", [], "Every run has its own log and charts.")


def _review(answers: Answers, machine: Machine) -> Iterator[Question]:
    yield Question("training.output_dir", "runs", "Every run gets its own subfolder.")


STEPS = (
    Step(
        "Model",
        "Choose the base model to tune: a name on the hub, a folder, or smollm2-135m. Larger models "
        "give better answers but need more memory and time.",
        _model,
    ),
    Step(
        "Algorithm",
        "full trains every weight, lora a small adapter, and qlora an adapter on 4-bit weights. An "
        "adapter needs a fraction of the memory and takes only a few MB to store.",
        _algorithm,
    ),
    Step(
        "Hyperparameters",
        "They control how fast the model learns, and from how many rows at a time. The defaults "
        "depend on the method and the size of the model.",
        _hyperparameters,
    ),
    Step(
        "Compute",
        "The device determines the speed and which models fit. auto picks the best one available.",
        _compute,
    ),
    Step(
        "Data",
        "Choose the data to train on: a file, a name on the hub, or alpaca, samsum, gsm8k, "
        "grammar. Some rows are held out for evaluation.",
        _data,
    ),
    Step(
        "Tracking",
        "Trackers such as wandb or tensorboard show runs in another place. Each must be installed.",
        _tracking,
    ),
    Step(
        "Review and launch",
        "The settings are checked against the model, the data and this machine. Training starts "
        "only when you confirm.",
        _review,
    ),
)
"""The steps, in order. Source: PEFT Studio, wizard_steps."""
