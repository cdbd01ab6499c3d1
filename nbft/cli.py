"""The command line.

`nbft demo | train | submit | race | attach | runs | compare | evaluate | export-model | doctor |
find-learning-rate | try-rewards | trackers | inspect | bench | import | export | compatibility |
config show|check|new|create|presets | cloud offers|prices|setup`, and requests to a run:
`nbft stop | pause | continue | save | sample | cancel | resume RUN`. Exit codes: 2 for a user's
mistake, 1 for a failed run, 130 after an interrupt, 143 after SIGTERM and 129 after SIGHUP.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from nbft.config import Config, io, presets, settings
from nbft.errors import ConfigError, NbftError, Problem
from nbft.events import FINAL_KINDS, EventReader
from nbft.formatting import count, duration, number, one_line, size
from nbft.progress import telling
from nbft.reading import why_not
from nbft.redaction import redact, redact_text
from nbft.tracking import TRACKERS

if TYPE_CHECKING:
    from nbft.bench.task import Task
    from nbft.plan import Plan
    from nbft.runs import Run


class _Commands(TyperGroup):
    """Prints a user's mistake in sentences instead of a traceback, and exits with 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except NbftError as error:
            _print_problems(error.problems)
            raise typer.Exit(2) from None
        except OSError as error:
            if error.filename is None:  # such as a closed pipe, which typer knows
                raise
            _print_problems([redact_text(f"{error.filename}: {why_not(error)}.")])
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("Interrupted.", err=True)
            raise typer.Exit(128 + signal.SIGINT) from None


def _print_problems(problems: Iterable[object]) -> None:
    for problem in problems:
        typer.echo(str(problem), err=True)


app = typer.Typer(
    cls=_Commands,
    help="Fine-tune a language model, here or from a notebook.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(
    cls=_Commands, help="Show, check or write config files.", no_args_is_help=True
)
app.add_typer(config_app, name="config")
cloud_app = typer.Typer(cls=_Commands, help="Compare rented GPUs, and set SkyPilot up.")
app.add_typer(cloud_app, name="cloud")

_Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings that take precedence: training.learning_rate=5e-5 …"),
]
_File = Annotated[Path, typer.Argument(help="Config file (YAML or JSON).")]
_Name = Annotated[str, typer.Argument(help="Name or folder of a run.")]
_Folder = Annotated[Path, typer.Option("--folder", help="Folder that holds the runs.")]
_AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Consent to the code that the config names, once for each."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Simulate = Annotated[
    bool, typer.Option("--simulate", help="Run the training step without data or memory.")
]


def _attached(run: str, folder: Path) -> Run:
    from nbft.runs import attach

    return attach(run, folder)


@app.command()
def train(file: _File, overrides: _Overrides = None, allow_code: _AllowCode = False) -> None:
    """Train the run that a config file describes, and wait for its end."""
    from nbft.plan.cluster import trained_here
    from nbft.runs import Run

    config = _checked(file, overrides or [], allow_code=allow_code)
    run = Run.create(trained_here(config))
    code = _train(run)
    typer.echo(f"Run: {run.path}")
    typer.echo(f"Report: {run.path / 'report.html'}")
    _print_problems(run.problems)
    _print_next(run)
    if code:
        raise typer.Exit(code)


def _print_next(run: Run) -> None:
    """Print the commands that usually come next."""
    from nbft.runs.next_steps import next_steps

    steps = [step for step in next_steps(run, run.state) if step.shell]
    width = max((len(step.shell) for step in steps), default=0)
    for step in steps:
        typer.echo(f"Next: {step.shell:<{width}}  # {step.what}")


@app.command()
def demo(
    folder: _Folder = Path("runs"),
    steps: Annotated[int, typer.Option(help="Steps; -1 for the whole preset.")] = -1,
) -> None:
    """Fine-tune the default model on bundled rows, and show what changed."""
    from nbft.hardware import peak_memory_bytes
    from nbft.models import find_model
    from nbft.runs import Run
    from nbft.runs.curves import in_words
    from nbft.runs.progress import what_not_to_expect

    began = time.monotonic()
    config = Config.preset("two-minute-try").apply(
        {"training.output_dir": str(folder), "training.max_steps": steps}
    )
    typer.echo("1. The model")
    find_model(config.model.model_name, say=lambda text: typer.echo(f"   {text}"))
    model_seconds = time.monotonic() - began
    typer.echo("2. The training")
    run = Run.create(config)
    if code := _train(run):
        _print_problems(run.problems)
        raise typer.Exit(code)
    picture = run.path / "curves.png"
    run.curves().savefig(picture)
    typer.echo("3. The answers")
    with contextlib.suppress(NbftError):
        typer.echo(f"{run.compare()}\n")
    for sentence in (*run.scores().sentences, what_not_to_expect(run.state, config)):
        typer.echo(sentence)
    seconds, peak = (run.state.end or {}).get("seconds"), peak_memory_bytes("cpu")
    typer.echo(f"\n{in_words(run.state)}")
    typer.echo(
        f"Model: {duration(model_seconds)}. Training: {duration(seconds or 0)}. "
        f"Peak memory: {size(peak) if peak else 'not known here'}."
    )
    typer.echo(f"Curve:   {picture}")
    typer.echo(f"Run:     {run.path}")
    typer.echo(f"Report:  {run.path / 'report.html'}")
    typer.echo("Open the notebook with: make lab (it is notebooks/quickstart.ipynb).")


@app.command()
def submit(file: _File, overrides: _Overrides = None, allow_code: _AllowCode = False) -> None:
    """Train the run that a config file describes in the background, and return at once."""
    from nbft.launchers import submit as submit_run

    run = submit_run(_checked(file, overrides or [], allow_code=allow_code))
    typer.echo(f"Run: {run.path}")
    typer.echo(f"Watch it with: nbft attach {run.path}")


@app.command()
def race(
    file: _File,
    overrides: _Overrides = None,
    tried: Annotated[
        list[str] | None,
        typer.Option("--try", help="Values to try: training.learning_rate=1e-4,3e-4. Repeatable."),
    ] = None,
    keep: Annotated[
        str, typer.Option(help="all, half (drop the worse half again and again), or a number.")
    ] = "all",
    allow_code: _AllowCode = False,
) -> None:
    """Train every combination of some values in turns in the background, and return at once."""
    from nbft.launchers import race as start_race

    grid = dict(map(_tried, tried or []))
    kept: Any = int(keep) if keep.isdecimal() else keep
    started = start_race(_checked(file, overrides or [], allow_code=allow_code), grid, keep=kept)
    typer.echo(str(started))
    typer.echo(f"Race: {started.path}")
    typer.echo(f"Watch it with: nbft.Race({str(started.path)!r}) in a notebook, or nbft runs")


def _tried(text: str) -> tuple[str, list[Any]]:
    """Read a setting and the values to try; a value may be a list of its own, in brackets.

    >>> _tried("peft.r=8,32")
    ('peft.r', [8, 32])
    """
    setting, equals, values = text.partition("=")
    if not equals:
        raise ConfigError(Problem("--try", text, "has no values.", "Write SETTING=VALUE,VALUE."))
    tree = io.parse_yaml(f"values: [{values}]", "--try")
    return setting.strip(), list(tree["values"])


@app.command()
def attach(run: _Name, folder: _Folder = Path("runs")) -> None:
    """Show a run, old or running, from its beginning; Ctrl-C leaves it alone."""
    from nbft.runs.progress import status_words

    attached = _attached(run, folder)
    progress = _Progress()
    with contextlib.suppress(KeyboardInterrupt):
        for event in attached.follow():
            progress.show(event)
    state = attached.state
    status = status_words(state.status, state.host, state.heard)
    typer.echo(f"Run: {attached.path} ({status})")
    for one in attached.exports:
        typer.echo(f"Exported: {one.to} in {one.path}. {one.sentence}")


def _add_request(name: str, about: str) -> None:
    """Add the command `nbft NAME RUN`, which asks a run for something."""

    @app.command(name, help=about)
    def request(run: _Name, folder: _Folder = Path("runs")) -> None:
        attached = _attached(run, folder)
        getattr(attached, "continue_" if name == "continue" else name)()
        typer.echo(f"{attached.id}: asked to {name}.")


_add_request("stop", "Ask a run to stop after its step, with everything saved.")
_add_request("pause", "Ask a run to wait after its step.")
_add_request("continue", "Continue a paused run.")
_add_request("save", "Ask a run to save a checkpoint.")
_add_request("sample", "Ask a run to answer its fixed prompts now.")
_add_request("cancel", "End a run at once, saving nothing.")


@app.command()
def resume(run: _Name, overrides: _Overrides = None, folder: _Folder = Path("runs")) -> None:
    """Resume a run in the background from its last complete checkpoint."""
    attached = _attached(run, folder)
    tree, whole = io.overridden({}, overrides or []), {setting.path for setting in settings()}
    attached.resume(io.flatten(tree, whole) if overrides else {})
    typer.echo(f"{attached.id}: asked to resume.")


@app.command()
def runs(folder: _Folder = Path("runs"), as_json: _Json = False) -> None:
    """List the runs in a folder, the newest first."""
    from nbft.runs import list_runs
    from nbft.runs.folder import unreadable_runs
    from nbft.runs.progress import status_words

    summaries = [_about(run) for run in list_runs(folder)]
    _print_problems(unreadable_runs(folder))
    if as_json:
        typer.echo(json.dumps(summaries, indent=2))
        return
    if not summaries:
        typer.echo(f"No runs in {folder}. Start one with: nbft train FILE, or nbft demo.")
    for run in summaries:
        loss = "" if run["loss"] is None else f"loss {run['loss']:.3g}"
        status = status_words(run["status"], run["host"], run["heard"])
        typer.echo(
            f"{one_line(run['id']):<24} {status:<10} step {run['step']:>6,} of {run['total_steps']:>6,}"
            f"  {loss:<12} {one_line(str(run['model']))}"
        )
        if run["status"] != "failed":  # what cannot be read
            _print_problems(f"  {problem}" for problem in run["problems"])


@app.command()
def compare(
    run: _Name,
    prompts: Annotated[
        list[str] | None, typer.Argument(help="Prompts; its own by default.")
    ] = None,
    folder: _Folder = Path("runs"),
) -> None:
    """Show the answers of the base model and of the tuned one, side by side."""
    typer.echo(str(_attached(run, folder).compare(prompts or None)))


@app.command()
def evaluate(
    run: _Name,
    split: Annotated[str, typer.Option(help="validation or test.")] = "validation",
    metric: Annotated[
        list[str] | None,
        typer.Option(help="rouge, exact_match, format or perplexity; may be given several times."),
    ] = None,
    rows: Annotated[int | None, typer.Option(help="Rows; those of the run by default.")] = None,
    folder: _Folder = Path("runs"),
    as_json: _Json = False,
) -> None:
    """Score the base model and the tuned one on rows that were not trained on."""
    scores = _attached(run, folder).evaluate(split, metrics=metric, rows=rows)
    typer.echo(json.dumps(list(scores), indent=2) if as_json else str(scores))
    for sentence in [] if as_json else scores.sentences:
        typer.echo(sentence)


@app.command()
def doctor(
    file: Annotated[Path, typer.Argument(help="Config file, or a file of rows.")],
    overrides: _Overrides = None,
    as_json: _Json = False,
    sample: Annotated[int | None, typer.Option(help="Check about this many rows.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    allow_code: _AllowCode = False,
) -> None:
    """Check rows for problems; exits with 1 on errors, with 2 on an invalid config.

    A file of rows is checked with the default settings and model. Ctrl-C ends the check with a
    report on the rows checked until then, and exit code 130.
    """
    from nbft.data.doctor import doctor as look

    tree, folder = _config_or_rows(file)
    config = Config(**io.overridden(tree, overrides or []))
    _ask_consent(config, folder, allow_code=allow_code)
    with _progress_line() as say:
        report = look(config, sample=sample, folder=folder, say=say)
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else str(report))
    if report.is_stopped:
        raise typer.Exit(130)
    if report.of_level("error") or (strict and report.of_level("warning")):
        raise typer.Exit(1)


@app.command("try-rewards")
def try_rewards_command(
    file: _File,
    overrides: _Overrides = None,
    rows: Annotated[int, typer.Option(min=1, help="Training rows to answer.")] = 4,
    answer: Annotated[
        list[str] | None,
        typer.Option(help="Answer of your own instead of the model's; may be given several times."),
    ] = None,
    as_json: _Json = False,
    allow_code: _AllowCode = False,
) -> None:
    """Show what each reward gives a few answers of the base model, before anything is trained."""
    from nbft.runs.trying import try_rewards

    folder = file.absolute().parent
    config = Config(**io.overridden(io.read(file), overrides or []))
    _ask_consent(config, folder, allow_code=allow_code)
    with _progress_line() as say:
        table = try_rewards(config, rows, answers=answer, folder=folder, say=say)
    typer.echo(json.dumps(table.to_dict(), indent=2) if as_json else str(table))


@app.command("find-learning-rate")
def find_learning_rate_command(
    file: _File,
    overrides: _Overrides = None,
    steps: Annotated[int, typer.Option(help="Steps of the test, from 20 to 1,000.")] = 100,
    lowest: Annotated[
        float | None, typer.Option(help="First learning rate; suits the method by default.")
    ] = None,
    highest: Annotated[
        float | None, typer.Option(help="Last learning rate; suits the method by default.")
    ] = None,
    as_json: _Json = False,
    allow_code: _AllowCode = False,
) -> None:
    """Train a few steps at rising learning rates, and suggest the one from which to start.

    Saves nothing. Ctrl-C ends it with what was measured until then, and exit code 130.
    """
    from nbft.runs.rate_search import find_learning_rate

    folder = file.absolute().parent
    config = Config(**io.overridden(io.read(file), overrides or []))
    _ask_consent(config, folder, allow_code=allow_code)
    with _progress_line() as say:
        found = find_learning_rate(
            config, steps=steps, lowest=lowest, highest=highest, folder=folder, say=say
        )
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))
    if found.is_stopped:
        raise typer.Exit(130)


@app.command()
def bench(
    file: Annotated[Path | None, typer.Argument(help="Config file, or a file of rows.")] = None,
    overrides: _Overrides = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="trl, trl-tuned, unsloth or llamafactory; may be repeated."),
    ] = None,
    steps: Annotated[int, typer.Option(min=3, help="Steps of each training.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side trains.")] = 3,
    python: Annotated[
        list[str] | None,
        typer.Option(help="Python of a side in its own environment: unsloth=/path/python."),
    ] = None,
    scale: Annotated[str | None, typer.Option(help="model, length, batch or rows.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the bars to this file (.png).")] = None,
    as_json: _Json = False,
    allow_code: _AllowCode = False,
) -> None:
    """Compare the training speed of nbft and other systems on this machine.

    Without a file: the default model, and bundled text in rows as long as the first 96 of Alpaca.
    A side whose losses differ gets no speed.
    """
    import tempfile
    from dataclasses import asdict, replace

    from nbft.bench.compare import check_peers
    from nbft.bench.compare import compare as measure
    from nbft.bench.picture import check_path, draw
    from nbft.bench.rows import ALPACA_LENGTHS, write_rows_of_lengths
    from nbft.bench.scaling import points
    from nbft.bench.task import make_task

    with tempfile.TemporaryDirectory() as name:
        if file is not None and "=" in str(file):  # no file, but the first of the overrides
            file, overrides = None, [str(file), *(overrides or [])]
        if picture is not None:
            check_path(picture)
        pythons = dict(map(_pair, python or []))
        peers = [*(against or ("trl", "trl-tuned")), *pythons]
        check_peers(peers)
        given, folder = _config_or_rows(file) if file else ({}, Path())
        named = [text for text in overrides or [] if text.startswith(_NAMES_ROWS)]
        rows = ", ".join([str(file)] if file else named)
        if file is None or given == _rows(file):
            given = {"training": {"per_device_train_batch_size": 8}, **given}
        if not rows:
            given = {"data": {"dataset_name": "alpaca"}, **given}
        config = Config(**io.overridden(given, overrides or []))
        _ask_consent(config, folder, allow_code=allow_code)
        task = make_task(config, Path(name), folder, steps=steps)
        if not rows:
            rows = f"bundled text in rows as long as the first {len(ALPACA_LENGTHS)} of Alpaca"
            path = Path(name) / "alpaca-lengths.jsonl"
            write_rows_of_lengths(path, Path(task.rows), task.model, ALPACA_LENGTHS)
            task = replace(task, rows=str(path))
        if scale == "length":
            rows = f"of one length, cut from {rows}"
        comparisons = {}
        for what, point in points(task, scale) if scale else [(Path(task.model).name, task)]:
            typer.echo(f"{what}: {_described(point, rows)}", err=True)
            comparisons[what] = measure(
                point,
                peers,
                rounds=rounds,
                what=what,
                pythons=pythons,
                say=lambda text: typer.echo(text, err=True),
            )
            if as_json:
                for pair in comparisons[what].pairs:
                    typer.echo(json.dumps(asdict(pair) | {"rows": rows}))
            else:
                typer.echo(f"\n{what}: {_described(point, rows)}\n{comparisons[what]}\n")
        if picture is not None:
            draw(comparisons).savefig(picture)
            typer.echo(f"Picture: {picture}", err=as_json)


_NAMES_ROWS = ("data.path=", "data.dataset_name=", "data.train")


def _described(task: Task, rows: str) -> str:
    """Name what decides the speeds of a task: method, batch, device and rows."""
    from nbft.bench.compare import about_machine

    machine = about_machine(task.device)
    method = f"LoRA r={task.r}" if task.method == "lora" else "full fine-tuning"
    device = f"{machine['name'] or task.device}, {count(machine['cores'], 'core')}"
    return f"{method}, {count(task.batch_rows, 'row')} per step, {device}. Rows: {rows}."


def _pair(text: str) -> tuple[str, str]:
    """Split SIDE=PYTHON."""
    from nbft.bench.sides import SIDES

    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise NbftError(f"python={text}: give a side and its Python, as in unsloth=/path/python.")
    if name not in SIDES:
        raise NbftError(f"python={text}: choose a side from {', '.join(SIDES)}.")
    return name, str(Path(value).expanduser())


def _config_or_rows(file: Path) -> tuple[dict[str, Any], Path]:
    """Return the tree of a config file, or of a config for a file of rows, and its folder."""
    from nbft.data.sources import is_of_rows

    folder = file.absolute().parent
    if not is_of_rows(file):
        return io.read(file), folder
    if not file.is_file():
        raise NbftError(f"{file}: no such file. Looked in {folder}.")
    with contextlib.suppress(ValueError, OSError):  # JSON Lines is not JSON as a whole
        if file.suffix.lower() == ".json" and _begins_an_object(file):
            keys = {*json.loads(file.read_text(encoding="utf-8-sig"))}
            if keys & {*Config.model_fields}:
                return io.read(file), folder
    return _rows(file), folder


def _rows(file: Path) -> dict[str, Any]:
    """Return the tree of a config for a file of rows."""
    return {"data": {"path": str(file.absolute())}}


def _begins_an_object(file: Path) -> bool:
    """Whether a file may be a config in JSON: an array is rows, however long."""
    with file.open("rb") as content:
        return content.read(1000).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


@contextlib.contextmanager
def _progress_line() -> Iterator[Callable[[str], None]]:
    """Yield a function that overwrites one line on a terminal; the line is cleared at the end.

    Whatever tells its progress meanwhile writes there, too.
    """
    is_shown = sys.stderr.isatty()

    def say(text: str) -> None:
        if is_shown:
            typer.echo(f"\r\x1b[K{text}", nl=False, err=True)

    try:
        with telling(say):
            yield say
    finally:
        say("")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Their file: YAML, JSON, Python or a notebook.")],
    system: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="qefficient, oumi, erniekit, peft_studio, unsloth, llama_factory or axolotl; "
            "detected from the file's keys by default.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write our config file here.")] = None,
    rows: Annotated[
        int, typer.Option(min=0, help="Show this many training rows, with what is trained marked.")
    ] = 0,
    allow_code: _AllowCode = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Write nothing if a key could not be taken; exits with 2."),
    ] = False,
    as_json: _Json = False,
) -> None:
    """Import another system's file, with a verdict on each of its keys.

    Exits with 0 if everything that changes the training was taken, with 3 if something was not:
    keys that nbft cannot take, or does not know. A file that asks for a training method that nbft
    does not have is an error.
    """
    with _progress_line():
        config, report = Config.import_file(file, system, strict=strict)
    if as_json:
        as_data = report.to_dict() | {"config": config.to_dict()}
        if rows:
            shown = _rows_in_text(config, file, range(1, rows + 1), allow_code=allow_code)
            as_data["rows"] = list(shown)
        typer.echo(json.dumps(redact(as_data), indent=2))
    else:
        typer.echo(redact_text(str(report)))
    if output is not None:
        config.save(output)
        typer.echo(f"Wrote {output}. Train it with: nbft train {output}", err=as_json)
    elif not as_json:
        typer.echo(f"\n{config.to_yaml(redacted=True)}", nl=False)
    if rows and not as_json:
        try:
            _show_rows(config, file, range(1, rows + 1), allow_code=allow_code)
        except NbftError as error:  # the config is imported all the same
            _print_problems(["The rows cannot be shown:", *error.problems])
    if report.dropped:
        keys = count(len(report.dropped), "key")
        typer.echo(f"{keys} could not be taken: the training may differ from theirs.", err=True)
        raise typer.Exit(3)


@app.command()
def inspect(
    file: Annotated[
        Path, typer.Argument(help="Config file of nbft or of another system, or a file of rows.")
    ],
    overrides: _Overrides = None,
    row: Annotated[int, typer.Option(min=1, help="The row to show, from 1 in its split.")] = 1,
    rows: Annotated[int, typer.Option(min=1, help="How many rows to show from there on.")] = 1,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    system: Annotated[
        str | None, typer.Option("--from", help="System of the file; detected by default.")
    ] = None,
    allow_code: _AllowCode = False,
) -> None:
    """Show rows as the model will see them: what is trained on, special tokens, what is cut off.

    Works without the model's weights. Without its tokenizer, the text of the rows is shown.
    """
    from nbft.interop.importer import is_theirs

    if system or is_theirs(file):
        with _progress_line():
            config, report = Config.import_file(file, system)
        more = "" if report.system == "rows" else f" All of them: nbft import {file}"
        typer.echo(redact_text(f"{report.summary}{more}"), err=True)
        tree = config.to_dict(full=True)
    else:
        tree = io.read(file)
    config = Config(**io.overridden(tree, overrides or []))
    _show_rows(config, file, range(row, row + rows), split, allow_code=allow_code)


def _show_rows(
    config: Config, file: Path, numbers: range, split: str = "train", *, allow_code: bool
) -> None:
    """Print rows of a config as the model will see them."""
    from nbft.pages import lens as page

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    texts = _rows_in_text(config, file, numbers, split, allow_code=allow_code, colour=colour)
    for place, text in enumerate(texts):
        if place == 0:
            typer.echo(f"\n{page.LEGEND}")
        typer.echo(f"\n{text}", color=colour)


def _rows_in_text(
    config: Config,
    file: Path,
    numbers: range,
    split: str = "train",
    *,
    allow_code: bool,
    colour: bool = False,
) -> Iterator[str]:
    """Yield rows of a config as text, as the model will see them; says on stderr what is amiss."""
    from nbft.data.examples import by_answer, load_examples
    from nbft.data.lens import seen
    from nbft.errors import DataError, Problem
    from nbft.models.find import find_local
    from nbft.models.load import tokenizer_for_display, tokenizer_source
    from nbft.pages import lens as page

    folder = file.absolute().parent
    if split not in ("train", "validation", "test"):
        raise DataError(Problem("split", split, "is no split.", "Use train, validation or test."))
    _ask_consent(config, folder, allow_code=allow_code)
    with _progress_line():
        examples, remarks = load_examples(config, split, folder=folder)
    tokenizer, source = None, tokenizer_source(config)
    why = f"The model {source[0]} is not on this machine"
    try:
        if found := find_local(*source):
            tokenizer = tokenizer_for_display(config, found.path, folder)
    except NbftError as error:
        why = str(error).rstrip(".")
    said = [*examples.recognised, *remarks]
    if tokenizer is not None:
        examples, split_up = by_answer(examples, tokenizer)
        said += split_up
    total = len(examples)
    if numbers.start > total:
        why = f"is beyond the {count(total, 'row')} of {split}."
        raise DataError(Problem("row", numbers.start, why))
    if tokenizer is None:
        said.append(f"{why}, so rows are shown as text, without their tokens.")
    _print_problems(said)
    for at in numbers[: max(0, total + 1 - numbers.start)]:
        shown, problems = seen(examples, at - 1, config, tokenizer, split)
        title = f"row {at:,} of {total:,}"
        yield page.plain(title, shown, problems, colour=colour)


@app.command()
def export(
    file: _File,
    system: Annotated[
        str, typer.Option("--to", help="qefficient, oumi, erniekit, peft_studio or python.")
    ],
    overrides: _Overrides = None,
) -> None:
    """Print a config as another system's file; settings it lacks are listed on standard error."""
    text = Config.load(file, overrides or []).export(system)
    typer.echo(text, nl=False)
    for path, value in getattr(text, "left_out", {}).items():
        typer.echo(f"Not supported there: {path}={redact(value, path)}", err=True)


@app.command("export-model")
def export_model(
    run: _Name,
    to: Annotated[
        str,
        typer.Option(
            "--to", help="adapter, merged, gguf, ollama, mlx, vllm, openai-server or hub."
        ),
    ] = "merged",
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; RUN-FORMAT by default.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Number type of the weights: bfloat16, float16, float32; in GGUF also q8_0, q4_k_m."
        ),
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of safetensors.")] = "5GB",
    repo_id: Annotated[str | None, typer.Option(help="Repository on the Hub: owner/name.")] = None,
    private: Annotated[bool, typer.Option(help="A new repository is for its owner alone.")] = True,
    adapter: Annotated[bool, typer.Option("--adapter", help="Upload the adapter alone.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload without asking.")] = False,
    folder: _Folder = Path("runs"),
) -> None:
    """Export a trained model, read it back, and prove that it is the same.

    Exits with 1 if the proof fails; the export stays, marked in its README.md and proof.json.
    """
    attached = _attached(run, folder)
    with _progress_line() as say, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a proof that failed is printed below
        exported = attached.export(
            to,
            output,
            dtype=dtype,
            max_shard_size=max_shard_size,
            repo_id=repo_id,
            private=private,
            adapter=adapter,
            yes=yes,
            say=say,
        )
    typer.echo(f"Wrote {exported.path}")
    typer.echo(exported.proof.sentence, err=not exported.proof.passed)
    if not exported.proof.passed:
        raise typer.Exit(1)
    typer.echo(exported.usage)


@app.command()
def compatibility(
    system: Annotated[
        str | None,
        typer.Option(help="qefficient, oumi, unsloth, erniekit or peft_studio; all without."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """List every parameter of the five systems: our setting, and what it does here."""
    from nbft.interop.compatibility import rows, summary

    parameters = rows(system)
    if as_json:
        typer.echo(json.dumps([row.to_dict() for row in parameters], indent=2))
        return
    for row in parameters:
        typer.echo(str(row))
    typer.echo(f"\n{summary(parameters)}")


@config_app.command("show")
def config_show(
    file: Annotated[Path | None, typer.Argument(help="Config file; the defaults without.")] = None,
    overrides: _Overrides = None,
    everything: Annotated[bool, typer.Option("--all", help="Show the defaults too.")] = False,
    comments: Annotated[bool, typer.Option(help="Say what each setting does.")] = False,
) -> None:
    """Show a config, or every setting there is."""
    config = Config.load(file, overrides or []) if file else Config()
    if file or comments:
        typer.echo(config.to_yaml(full=everything or not file, comments=comments, redacted=True))
        return
    for setting in settings():
        if not everything and setting.level == "expert":
            continue
        default = "" if setting.default in (None, "", [], {}) else f" [{setting.default}]"
        typer.echo(f"{setting.path}{default}\n    {setting.help} {setting.range_text}".rstrip())


@config_app.command("check")
def config_check(file: _File, overrides: _Overrides = None, allow_code: _AllowCode = False) -> None:
    """Check a config file and show its plan; exits with 2 if it cannot run."""
    from nbft.plan import make_plan

    config = _checked(file, overrides or [], allow_code=allow_code)
    with _progress_line():
        plan = make_plan(config, folder=file.absolute().parent)
    _print_plan(plan)
    typer.echo("Ready.")


def _print_plan(plan: Plan) -> None:
    for remark in plan.remarks:
        typer.echo(f"Note: {remark}")
    typer.echo(
        f"Device: {plan.device}. Weights: {plan.dtype}. Mixed precision: {plan.mixed_precision}. "
        f"Fast path: {plan.fast_path}."
    )
    for name, use in plan.decisions.trackers.items():
        typer.echo(f"{TRACKERS[name].title}: {use}.")
    if plan.device_use:
        typer.echo(f"Note: {plan.device_use}.")
    typer.echo(
        f"{count(plan.total_steps or 0, 'step')} of {count(plan.effective_batch_size, 'row')}, "
        f"{count(plan.train_rows or 0, 'training row')}, {count(plan.eval_rows or 0)} held out."
    )
    for sentence in plan.costs:
        typer.echo(sentence)
    for sentence in plan.assumptions:
        typer.echo(f"Assumed: {sentence}")


@app.command("trackers")
def trackers_command(as_json: _Json = False) -> None:
    """List the experiment trackers: installed or not, logged in or not, and where runs would be."""
    from nbft.tracking import trackers

    table = trackers()
    if not as_json:
        typer.echo(str(table))
        return
    states = [
        {
            "name": state.tracker.name,
            "title": state.tracker.title,
            "version": state.version,
            "use": state.use.value if state.is_installed else None,
            "about": state.sentence,
        }
        for state in table
    ]
    typer.echo(json.dumps(states, indent=2, ensure_ascii=False))


@app.command("places")
def places_command(file: _File, overrides: _Overrides = None, as_json: _Json = False) -> None:
    """List where the run could train, with time, memory and cost of each place."""
    from nbft.plan.places import places

    with _progress_line():
        found = places(Config.load(file, overrides or []), folder=file.absolute().parent)
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else str(found))


@app.command("plan")
def plan_command(
    file: _File, overrides: _Overrides = None, as_json: _Json = False, simulate: _Simulate = False
) -> None:
    """Show what a run will take: memory by part, steps, time, energy and money."""
    from nbft.plan import make_plan
    from nbft.plan.largest import in_words

    config = Config.load(file, overrides or [])
    with _progress_line():
        plan = make_plan(config, folder=file.absolute().parent)
        if simulate:
            plan = plan.simulate()
    if as_json:
        typer.echo(json.dumps(plan.to_dict() | {"errors": [str(p) for p in plan.errors]}))
    else:
        _print_plan(plan)
        if text := in_words(plan.largest):
            typer.echo(text)
        _print_problems(plan.problems)
    if plan.errors:
        raise typer.Exit(2)


@config_app.command("new")
def config_new(
    file: _File,
    preset: Annotated[str, typer.Option(help="Preset to start from.")] = "two-minute-try",
    comments: Annotated[bool, typer.Option(help="Say what each setting does.")] = True,
) -> None:
    """Write a config file to start from."""
    if file.exists():
        raise NbftError(f"{file}: is there already. Name another file, or remove it.")
    Config.preset(preset).save(file, comments=comments)
    typer.echo(f"Wrote {file} from the preset {preset} (available: {', '.join(presets())}).")
    typer.echo(f"Train it with: nbft train {file}")


@config_app.command("create")
def config_create(
    model: Annotated[str | None, typer.Option(help="Base model; asked for without.")] = None,
    method: Annotated[
        str, typer.Option(help="full, lora, qlora, or auto: by the model's size and this machine.")
    ] = "auto",
    data: Annotated[
        str | None, typer.Option(help="File of rows or name of a data set; asked for without.")
    ] = None,
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("config.yaml"),
    yes: Annotated[bool, typer.Option("--yes", help="Take every default.")] = False,
) -> None:
    """Ask seven questions with defaults for your rows and this machine, and write a config."""
    from nbft import wizard
    from nbft.plan import make_plan
    from nbft.plan.advice import this_machine
    from nbft.plan.checklist import checklist

    def ask(path: str, default: str) -> str:
        return str(typer.prompt(f"  {path}", default=default))

    given = {
        "model.model_name": model,
        "data": data,
        "method": method if method != "auto" else None,
    }
    if output.exists():  # before asking seven questions
        raise NbftError(f"{output}: is there already. Name another file, or remove it.")
    changes, reasons = wizard.create(
        this_machine(),
        given={path: value for path, value in given.items() if value is not None},
        ask=None if yes else ask,
        say=typer.echo,
    )
    folder = output.absolute().parent
    with _progress_line():
        plan = make_plan(wizard.write(changes, reasons, output), folder=folder)
    typer.echo("")
    for item in checklist(plan, folder=folder):
        typer.echo(f"  {item}")
    for problem in plan.warnings:
        typer.echo(f"Note: {problem}")
    typer.echo(f"\nWrote {output}. Train it with: nbft train {output}")
    if plan.errors:
        _print_problems(plan.errors)
        raise typer.Exit(2)
    if not yes and typer.confirm("Train it now?", default=False):
        train(output)


@cloud_app.callback(invoke_without_command=True)
def cloud(context: typer.Context) -> None:
    """Show whether SkyPilot and each provider are set up; uses no network."""
    from nbft.launchers.sky import status

    if context.invoked_subcommand is None:
        for sentence in status():
            typer.echo(sentence)


@cloud_app.command("setup")
def cloud_setup() -> None:
    """Install SkyPilot in an environment of its own, about 700 MB."""
    from nbft.launchers.sky import set_up

    typer.echo(f"SkyPilot {set_up(typer.echo)} is ready. Nothing is reported to its makers.")


@cloud_app.command("prices")
def cloud_prices() -> None:
    """Download the providers' price lists with SkyPilot."""
    from nbft.launchers.sky import update_prices
    from nbft.plan.prices import RENTED, price_list

    update_prices()
    for key in RENTED.values():
        typer.echo(price_list(key).source)


@cloud_app.command("offers")
def cloud_offers(
    file: _File,
    overrides: _Overrides = None,
    provider: Annotated[
        str | None, typer.Option("--on", help="runpod, lambda or vast; all by default.")
    ] = None,
    spot: Annotated[bool, typer.Option("--spot", help="Compare prices of spot machines.")] = False,
) -> None:
    """Show what a run would take and cost on each GPU that can be rented, the cheapest first."""
    from nbft.plan.offers import offers
    from nbft.plan.prices import RENTED

    if provider is not None and provider not in RENTED:
        raise ConfigError(Problem("--on", provider, f"is not one of {', '.join(RENTED)}."))
    config = Config.load(file, overrides or [])
    with _progress_line():
        found = offers(config, provider and RENTED[provider], file.absolute().parent, spot=spot)
    typer.echo(str(found))


@config_app.command("presets")
def config_presets() -> None:
    """List the presets: templates and recipes to start a config from."""
    for name, (_, about) in io.about_presets().items():
        typer.echo(f"{name:<17} {about}")


def _ask_consent(config: Config, folder: Path, *, allow_code: bool) -> None:
    """Consent to the code of a config: all of it by a flag, or one by one at a terminal."""
    from nbft import consent
    from nbft.config.code import forbidden

    for code in forbidden(config, folder):
        if code.refusal:
            continue
        if not allow_code:
            if not _is_terminal():
                return
            typer.echo(f"{code.setting} names code, which the run would execute: {code.place}")
            typer.echo(f"\n{code.source}\n" if code.source else "Its text is not on this machine.")
            if not typer.confirm("Allow it?", default=False):
                continue
        consent.allow(code)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _checked(file: Path, overrides: list[str], *, allow_code: bool = False) -> Config:
    """Load a config and check its settings and its plan.

    Raises:
        ConfigError: Every problem that would stop the run.
    """
    from nbft.errors import ConfigError
    from nbft.plan import make_plan
    from nbft.runs.folder import self_contained

    tree = io.overridden(io.read(file), overrides)
    config, problems = Config.parse(tree)
    wrong = {problem.field for problem in problems}
    _ask_consent(config, file.absolute().parent, allow_code=allow_code)
    with _progress_line():
        plan = make_plan(config, folder=file.absolute().parent)
    if problems:
        more = [p for p in plan.errors if not any(p.field.startswith(f) for f in wrong)]
        raise ConfigError([*problems, *more])
    if plan.errors:
        raise ConfigError(plan.errors)
    for warning in plan.warnings:
        typer.echo(f"Note: {warning}")
    return self_contained(config, None, file.absolute().parent)


def _train(run: Run) -> int:
    """Train a run in this process, printing its progress, and return the exit code."""
    from nbft.launchers.launch import train_and_wait
    from nbft.processes import set_title

    set_title(f"training {run.id}")
    progress, reader = _Progress(), EventReader(run.events_path)

    def show_news() -> None:
        for event in reader.read():
            progress.show(event)

    signals = train_and_wait(run, lambda: show_news)
    if signals.first is not None and signals.is_second:
        typer.echo(f"Run: {run.path}")
        sys.stdout.flush()
        os._exit(128 + signals.first)  # Python would take seconds to leave
    if signals.first is not None:
        return 128 + signals.first
    return 1 if run.status == "failed" else 0


class _Progress:
    """Prints a line for each event that matters to people; on a terminal steps share one line."""

    def __init__(self) -> None:
        from nbft.runs.state import RunState

        self.state = RunState(measures=())
        self._terminal = sys.stdout.isatty()
        self._open_line = False
        self._printed_at = 0.0
        self._has_failed = False

    def show(self, event: dict[str, Any]) -> None:
        """Print an event; an error ends the printing, not the run that is trained meanwhile."""
        self.state.take(event)
        if self._has_failed:
            return
        try:
            self._print(event)
        except Exception as error:
            self._has_failed = True
            with contextlib.suppress(OSError):  # for example, a pipe that was closed
                text = f"The progress is no longer shown ({error}). The run goes on."
                typer.echo(f"   {text}", err=True)

    def _print(self, event: dict[str, Any]) -> None:
        kind, step, text = event["event"], event.get("step"), event.get("text")
        at = "" if step is None else f" at step {step:,}"
        if kind == "stage" and text and event.get("stage") != "checkpoint":  # "saved …" follows
            left = event.get("seconds_left")
            text += "" if left is None else f" ({duration(left)} left)"
            if self.state.log and self._terminal:
                self._step(f"   {text}", last=False)
            else:
                self._line(f"   {text}")
        elif kind in ("warning", "note") and text:
            self._line(f"   Note: {text}")
        elif kind == "answered":
            steps = [note.step or 0 for note in self.state.notes if note.answered_step == step]
            self._line(f"   Note: what was said at step {max(steps, default=0):,} is over{at}.")
        elif kind == "prepared" and (facts := _prepared(event)):
            self._line(f"   {facts}.")
        elif kind == "log":
            total = self.state.total_steps
            self._step(f"   {_step(event, total)}", last=step == total)
        elif kind == "eval" and event.get("eval_loss") is not None:
            self._line(f"   held-out loss{at}: {event['eval_loss']:.3f}")
        elif kind == "scores" and event.get("scores"):
            self._line(f"   scores{at}: {_scores_in_words(event)}")
        elif kind == "checkpoint" and event.get("path"):
            self._line(f"   saved {event['path']}")
        elif kind in FINAL_KINDS:
            seconds = event.get("seconds")
            after = "" if seconds is None else f" after {duration(seconds)}"
            self._line(f"   {kind.capitalize()}{after}. {text or ''}".rstrip())
        elif kind == "command" and event.get("command") == "stop" and text:
            self._line(f"   {text}")

    def _step(self, text: str, *, last: bool) -> None:
        if self._terminal:
            typer.echo(f"\r\x1b[K{text}", nl=False)
            self._open_line = True
        elif last or time.monotonic() - self._printed_at > 5:
            typer.echo(text)
            self._printed_at = time.monotonic()

    def _line(self, text: str) -> None:
        typer.echo(f"\n{text}" if self._open_line else text)
        self._open_line = False


def _prepared(event: dict[str, Any]) -> str:
    """Describe what is about to be trained."""
    parts = [", ".join(event[name] for name in ("device", "dtype") if event.get(name))]
    if event.get("rows") is not None:
        parts.append(count(event["rows"], "row"))
    trained, total = event.get("trainable_parameters"), event.get("total_parameters")
    if trained is not None and total:
        parts.append(f"{trained / 1e6:.1f} M parameters trained ({trained / total:.1%})")
    return "; ".join(filter(None, parts))


def _step(event: dict[str, Any], total: int | None) -> str:
    """Return the numbers of a step in one line."""
    step, loss, left = event.get("step"), event.get("loss"), event.get("seconds_left")
    of = f" of {total:,}" if total else ""
    return " · ".join(
        [
            "step ?" if step is None else f"step {step:,}{of}",
            "loss ?" if loss is None else f"loss {loss:.3f}",
            f"{number(event.get('tokens_per_second') or 0)} tokens/s",
            "? left" if left is None else f"{duration(left)} left",
        ]
    )


def _scores_in_words(event: dict[str, Any]) -> str:
    from nbft.evaluate.scores import label_of, shown

    rows = event.get("rows") or 0
    scores = [f"{label_of(n)} {shown(n, v, rows)}" for n, v in event["scores"].items()]
    return ", ".join(scores) + (" (test rows)" if event.get("split") == "test" else "")


def _about(run: Any) -> dict[str, Any]:
    from nbft.runs.summary import summary

    about = summary(run)
    about["total_steps"] = about["total_steps"] or 0
    names = (
        *("id", "path", "status", "host", "heard", "step", "total_steps", "loss", "model"),
        "problems",
    )
    return {name: about[name] for name in names}


if __name__ == "__main__":
    app()
