"""`nbft.ask`: answers of a base model or a tuned one, which stays loaded for the next question."""

from __future__ import annotations

import contextlib
import difflib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.data.ready import READY
from nbft.errors import ConfigError, Problem, RunError
from nbft.evaluate.compare import Answers
from nbft.hardware import release_memory
from nbft.methods import method_of
from nbft.models.find import find_local
from nbft.runs.folder import Run, check_writes, list_runs, load_base
from nbft.runs.mark import is_run
from nbft.runs.sides import Copy, weights_key

if TYPE_CHECKING:
    from nbft.evaluate.prompts import Prompt


class _Loaded(NamedTuple):
    """The model that is kept.

    Attributes:
        key: What it was loaded from; another key is another model.
        model: The model.
        tokenizer: Its tokenizer.
    """

    key: tuple[Any, ...]
    model: Any
    tokenizer: Any


_kept: _Loaded | None = None
_beside: _Loaded | None = None  # a second one, while a chat needs two
_lock = threading.RLock()  # one question at a time, as there is one model


def ask(
    model: Run | Config | str | Path,
    prompts: Prompt | Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    do_sample: bool = False,
    temperature: float | None = None,
    top_p: float | None = None,
    folder: str | Path = "runs",
) -> Answers:
    """Answer prompts with a base model or a tuned one.

    The model stays in memory for the next call. Asking another model releases it, and so does
    `release_model`. Models that a run trains are not touched.

    Args:
        model: A run, the name or folder of one, a config (its base model answers), or the name or
            folder of a base model.
        prompts: One prompt or several: texts as the model was trained on them, rows of the run's or
            config's dataset, which its templates render, or examples of `nbft.examples`.
        max_new_tokens: Longest answer, in tokens.
        do_sample: Draw tokens by their probability; otherwise the most likely one is taken.
        temperature: Above 1 more random, below 1 less; only with do_sample.
        top_p: Draw from the most likely tokens with this share in all; only with do_sample.
        folder: Folder in which runs are found by name.

    Returns:
        The answers as a list of texts, which shows itself with the prompts and, of rows and
        examples, the wanted answers.

    Raises:
        RunError: The run has no adapter yet.
        ConfigError: An argument is wrong.
        ModelError: There is no such model.
        DataError: A prompt is empty or too long, or a row does not fit the dataset.
    """
    from nbft.evaluate.generate import generate
    from nbft.evaluate.prompts import listed, read_prompts
    from nbft.models.load import quiet

    _check(max_new_tokens, do_sample, temperature, top_p)
    found = _found(model, Path(folder).expanduser())
    config = found.config if isinstance(found, Run) else found
    name = found.id if isinstance(found, Run) else Path(config.model.model_name).name
    if isinstance(found, Run):
        check_writes(found)
    else:  # its base model answers, which has no head of scores
        found = config = _writing(config)
    wanted = listed(prompts)
    if not wanted:
        return Answers([], name)
    with quiet(), kept_model(found) as (loaded, tokenizer):
        room = getattr(loaded.config, "max_position_embeddings", None)
        most = None if room is None else room - max_new_tokens
        asked = read_prompts(wanted, config, tokenizer, most_tokens=most)
        texts = generate(
            loaded,
            tokenizer,
            [one.ids for one in asked],
            max_new_tokens,
            do_sample=do_sample,
            temperature=temperature,
            top_p=top_p,
        )
    rows = ((a.text, text, a.wanted) for a, text in zip(asked, texts, strict=True))
    remark = _other_than_trained(wanted, config) if isinstance(found, Run) else ""
    return Answers(rows, name, remark)


def _other_than_trained(prompts: Sequence[Prompt], config: Config) -> str:
    """Say that texts lack the end of the prompts that a run was trained on; "" if none does."""
    dataset = config.data.train.datasets[0] if config.data.train.datasets else Dataset()
    ready = READY.get(dataset.dataset_name or "") if dataset.path is None else None
    template = dataset.prompt_template or (ready.prompt_template if ready else "")
    columns = re.findall(r"{([^{}]+)}", template)
    end = template.rpartition("}")[2].strip()
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if not end or not columns or all(end in text for text in texts):
        return ""
    row = dict.fromkeys(columns, "…")
    return (
        f"The text was asked as it is, but this run learned to answer after “{end}”. Ask with a row, "
        f"such as {row}, to have its template around it."
    )


def _writing(config: Config) -> Config:
    """Return a config whose model writes answers."""
    is_reward_model = method_of(config).scores_answers
    return config.apply({"training.method": "sft"}) if is_reward_model else config


@contextlib.contextmanager
def kept_model(wanted: Run | Config) -> Iterator[tuple[Any, Any]]:
    """Yield the model of a run or a config and its tokenizer; nobody else uses it meanwhile."""
    with kept_models([wanted]) as (loaded,):
        yield loaded


@contextlib.contextmanager
def kept_models(
    wanted: Sequence[Run | Config | Copy],
    check: Callable[[Sequence[Run | Config | Copy]], None] = lambda _: None,
) -> Iterator[list[tuple[Any, Any]]]:
    """Yield one or two models, each with its tokenizer; nobody else uses them meanwhile.

    Args:
        wanted: What they are models of. Others that were kept are released first.
        check: Called with those that have to be loaded; raises where there is no room for them.
    """
    with _lock:
        yield [(one.model, one.tokenizer) for one in _load(wanted, check)]


def release_model() -> None:
    """Give back the memory of the models that `ask` and `Run.chat` keep."""
    with _lock:
        if _kept is not None:
            _keep([])
            release_memory()


def _check(max_new_tokens: Any, do_sample: bool, temperature: Any, top_p: Any) -> None:
    """Raise where an argument is no number that fits."""
    problems = []
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        problems.append(Problem("max_new_tokens", max_new_tokens, "is not at least 1.", "Use 64."))
    for name, value, most in (("temperature", temperature, 10.0), ("top_p", top_p, 1.0)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Real):
            problems.append(Problem(name, value, f"is {type(value).__name__}, not a number."))
        elif not do_sample:
            why = "applies only when tokens are drawn, and do_sample is false."
            problems.append(Problem(name, value, why, "Add do_sample=True, or leave it out."))
        elif not 0 < float(value) <= most:
            problems.append(Problem(name, value, f"is not above 0 and at most {most:g}."))
    if problems:
        raise ConfigError(problems)


def _found(model: Any, folder: Path) -> Run | Config:
    """Return the run that is meant, or a config whose base model is."""
    if isinstance(model, (Run, Config)):
        return model
    if not isinstance(model, (str, Path)):
        why = f"is {type(model).__name__}, not a run, a config or a name."
        raise ConfigError(Problem("model", model, why))
    for path in (Path(model).expanduser(), folder / str(model)):
        if str(model) and is_run(path):
            return Run(path)
    name = str(model)
    if find_local(name) is None:
        known = [run.id for run in list_runs(folder)]
        if close := difflib.get_close_matches(name, known, n=1):
            raise RunError(
                f"{name}: is no run in {folder.absolute()} ({len(known)} there), and no model on this "
                f"machine. Did you mean {close[0]}?"
            )
    return Config(model={"model_name": name})


def _load(
    wanted: Sequence[Run | Config | Copy],
    check: Callable[[Sequence[Run | Config | Copy]], None],
) -> list[_Loaded]:
    """Return the kept models if they are the right ones; otherwise load those that are missing."""
    keys = [_key(one) for one in wanted]
    kept = {one.key: one for one in (_kept, _beside) if one is not None}
    missing = [one for key, one in zip(keys, wanted, strict=True) if key not in kept]
    if missing:
        kept = {key: one for key, one in kept.items() if key in keys}
        _keep(kept.values())
        release_memory()  # before others are loaded: there may be no room for all
        check(missing)
        for one in missing:
            key = _key(one)
            kept[key] = _Loaded(key, *_model_of(one))
            _keep(kept.values())
    return [kept[key] for key in keys]


def _keep(loaded: Iterable[_Loaded]) -> None:
    global _kept, _beside
    _kept, _beside = [*loaded, None, None][:2]


def _model_of(found: Run | Config | Copy) -> tuple[Any, Any]:
    if isinstance(found, Copy):
        return found.load()
    if isinstance(found, Run):
        return Run(found.path).load_model()  # a run of our own, so that only we keep the model
    from nbft.models.load import load_tokenizer

    model, folder = load_base(found)
    return model, load_tokenizer(found, folder)


def _key(found: Run | Config | Copy) -> tuple[Any, ...]:
    """Return what a model is loaded from; a run that was trained further has another key."""
    if isinstance(found, Copy):
        return found.key
    if isinstance(found, Run):
        adapter = found.adapter
        files = sorted(adapter.iterdir()) if adapter else []
        return (found.path, *((file, file.stat().st_mtime_ns) for file in files))
    return weights_key(found)
