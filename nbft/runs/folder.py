"""A run's folder, and `Run`, which reads it. Status is computed from the events, never stored.

run.json  config.yaml  plan.json  events.jsonl  commands.jsonl  log.txt  data/  checkpoints/
adapter/ (or model/)  report.html
"""

from __future__ import annotations

import contextlib
import difflib
import gc
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft import events, facade
from nbft.access import inherit_all, make_folder
from nbft.atomic import previous
from nbft.config import Config
from nbft.config.code import allow_code
from nbft.config.io import resolve
from nbft.errors import ConfigError, Problem, RunError
from nbft.events import Event
from nbft.formatting import one_line
from nbft.methods import method_of
from nbft.models.random_numbers import apart
from nbft.processes import Process, kill
from nbft.reading import open_file, why_not
from nbft.redaction import redact
from nbft.runs.checkpoints import resume_point, step_of
from nbft.runs.exports import ExportRecord, read_exports
from nbft.runs.files import log_tail, read_plan
from nbft.runs.mark import MARK, delete, is_marked, is_run, mark
from nbft.runs.names import new_name
from nbft.runs.state import RunState, StateReader, Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nbft.evaluate.compare import Comparison
    from nbft.evaluate.prompts import Prompt
    from nbft.evaluate.scores import Scores
    from nbft.export.exporting import Exported
    from nbft.plan import Plan
    from nbft.plan.fixes import Fix
    from nbft.runs.receipt import Receipt
    from nbft.widgets.chat import Chat

ALLOWED: dict[Status, list[str]] = {
    "created": ["stop", "cancel", "delete"],
    "queued": ["move_up", "stop", "cancel"],
    "running": ["stop", "pause", "save", "sample", "cancel"],
    "paused": ["continue", "stop", "cancel"],
    "completed": ["delete"],
    "stopped": ["resume", "delete"],
    "cancelled": ["resume", "delete"],
    "failed": ["resume", "delete"],
    "lost": ["resume", "delete"],
}
"""The commands that a run takes, by its status. Some have further conditions: a checkpoint to resume
from, a place in the queue to move up to. `Run.resume` also lengthens a completed run."""

_POLL_SECONDS = 0.2

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Run:
    """One training: a folder that holds everything about it.

    Args:
        path: The folder.

    Raises:
        RunError: There is no run in that folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        if not is_run(self.path):
            raise RunError(f"{self.path}: is no run of nbft.")
        self._loaded: tuple[Any, Any] | None = None
        self._is_shown = False
        self._reader = StateReader(self.events_path)
        self._reading = threading.Lock()

    @classmethod
    def create(cls, config: Config, folder: Path | None = None) -> Run:
        """Make the folder of a new run and write its config and plan.

        Rows in memory are written to the run's data folder, and paths are made absolute, so that
        the folder is enough to repeat the run.

        Args:
            config: The config of the run.
            folder: Folder of the config file, for relative paths.

        Raises:
            ConfigError: Every problem that would stop the run.
        """
        from nbft.plan import make_plan

        plan = make_plan(config, folder=folder)
        if plan.errors:
            raise ConfigError(plan.errors)
        config = plan.config  # with as many processes as were planned
        _check_checkpoint(plan, folder)
        parent = Path(config.training.output_dir).expanduser().absolute()
        name = config.training.run_name or new_name(parent)
        if not _NAME.fullmatch(name):
            what = "has characters that a folder name should not have."
            fix = "Use letters, digits, '.', '_' and '-'."
            raise ConfigError(Problem("training.run_name", name, what, fix))
        path = parent / name
        try:
            make_folder(path, is_shared=config.training.share_with_group)
            mark(path)
            saved = self_contained(config, path, folder)
            if config.is_own:  # its worker is another process, which only has the folder
                allow_code(saved, path)
            saved.training.run_name = name
            shown = json.dumps(redact(plan.to_dict()), indent=2)
            (path / "plan.json").write_text(shown, encoding="utf-8")
            saved.save(path / "config.yaml", full=True)
            inherit_all(path)
        except FileExistsError:
            what = f"{path} is there already."
            problem = Problem("training.run_name", name, what, "Choose another name.")
            raise ConfigError(problem) from None
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise ConfigError(f"{path}: cannot be written: {error.strerror}.") from None
        except KeyboardInterrupt:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return cls(path)

    @property
    def id(self) -> str:
        """Name of the run, which is the name of its folder."""
        return self.path.name

    @property
    def events_path(self) -> Path:
        """File of the events."""
        return self.path / "events.jsonl"

    @property
    def config(self) -> Config:
        """The config that the run was started with."""
        return Config.load(self.path / "config.yaml")

    @property
    def plan(self) -> dict[str, Any]:
        """The plan of the run; {} if plan.json is missing."""
        return read_plan(self.path)

    def events(self) -> list[Event]:
        """Return every event so far, oldest first."""
        return events.read(self.events_path)

    @property
    def state(self) -> RunState:
        """The current state; only new events are read."""
        with self._reading:  # a click may come on another thread than the view
            self._reader.read()
            return self._reader.state

    @property
    def status(self) -> Status:
        """The status of the run, from its events and from whether its process lives.

        A run on another machine counts as lost after ten minutes without a sign of life.
        """
        if cluster := self.state.cluster:
            facade.look(self, cluster)
        return self.state.status

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.status not in ("created", "queued", "running", "paused")

    @property
    def problems(self) -> list[str]:
        """Why the run failed; empty when it did not."""
        return list(self.state.problems)

    @property
    def adapter(self) -> Path | None:
        """Folder of the trained adapter, or of the model after full training; None before."""
        saved = (self.path / "adapter", self.path / "model")
        folders = (*saved, *map(previous, saved))
        files = ("config.json", "adapter_config.json")
        return next((f for f in folders if any((f / file).is_file() for file in files)), None)

    def stop(self) -> None:
        """Ask the run to stop after the current step, with everything saved."""
        self._command("stop")

    def save(self) -> None:
        """Ask the run to save a checkpoint after the current step."""
        self._command("save")

    def sample(self) -> None:
        """Ask the run to answer its fixed prompts now; a reward model answers none."""
        check_writes(self)
        self._command("sample")

    def pause(self, *, release: bool = False) -> None:
        """Ask the run to wait after the current step.

        Args:
            release: Save a checkpoint, end the process and free the device meanwhile; otherwise
                the memory is kept.
        """
        self._command("pause", release=release)

    def continue_(self) -> Run:
        """Continue a paused run, from where it waits or from its checkpoint."""
        if self.state.is_released:
            return self.resume()
        self._command("continue")
        return self

    def cancel(self) -> None:
        """End the run at once, saving nothing."""
        self._command("cancel")
        supervisor, worker = Process.of(self.state.supervisor), Process.of(self.state.started)
        if supervisor is None or worker is None:
            return  # a thread of a kernel reads the command after its step, a queue at once
        if supervisor.lives() is not False:
            return  # it ends the worker and reports it
        if worker.lives() and kill(worker.pid, worker.start_time):
            events.append(self.events_path, "cancelled", step=self.step)

    def _command(self, name: str, **more: Any) -> None:
        status = self.status
        if name not in ALLOWED[status]:
            raise RunError(f"{self.id}: is {status}; there is nothing to {name}.")
        try:
            events.append(self.path / "commands.jsonl", name, **more)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise RunError(f"{self.id}: {name} could not be written: {reason}.") from None
        state = self.state
        if name in ("stop", "cancel") and (state.cluster or state.is_released):
            if state.cluster:
                facade.withdraw(self, state.cluster)
            kind = "cancelled" if name == "cancel" or not state.step else "stopped"
            events.append(self.events_path, kind, step=state.step)

    @property
    def step(self) -> int:
        """Optimiser steps done so far."""
        return self.state.step

    def resume(self, changes: Mapping[str, Any] | None = None) -> Run:
        """Go on in the background from the last whole checkpoint, on the same trajectory.

        Args:
            changes: Settings to change by dotted path; only those of length, logging, saving and
                evaluation may.

        Raises:
            RunError: The run is not over, has no whole checkpoint, or a setting may not change.
        """
        return facade.resume(self, changes)  # type: ignore[no-any-return]

    @property
    def fixes(self) -> list[Fix]:
        """Changes that need less memory, where memory ran out; empty otherwise."""
        written = self.state.fixes
        if not written:
            return []
        from nbft.plan.fixes import read_fixes

        return read_fixes(written, self.state.device)

    @property
    def is_background(self) -> bool:
        """Whether a supervisor looks after the run, and not the kernel that started it."""
        waiting, training = Process.of(self.state.supervisor), Process.of(self.state.started)
        return not waiting or not training or waiting.pid != training.pid

    def retry(self, fix: int | Mapping[str, Any] = 0, *, background: bool = True) -> Run:
        """Start a new run with settings changed, beside this one.

        Args:
            fix: Index into `fixes`, or settings by dotted path.
            background: Run it in a process that outlives this kernel, rather than in the kernel.

        Raises:
            RunError: There is no such fix.
            ConfigError: The changed settings cannot run.
        """
        if isinstance(fix, int):
            fixes = self.fixes
            if not 0 <= fix < len(fixes):
                raise RunError(f"{self.id}: has {len(fixes)} fixes; {fix} is none of them.")
            fix = fixes[fix].changes
        place = {"training.run_name": None, "training.output_dir": str(self.path.parent)}
        config = self.config.apply({**fix, **place})
        return facade.retry(self, config) if background else facade.start(config)  # type: ignore[no-any-return]

    def move_up(self) -> None:
        """Move one place up in the queue of the device.

        Raises:
            RunError: The run does not wait, or is the first in the queue.
        """
        from nbft.queue import move_up

        if not move_up(self.path):
            raise RunError(f"{self.id}: is {self.status}; it cannot move up.")

    def delete(self) -> list[str]:
        """Delete everything that nbft wrote into the folder, and the folder if that was all.

        Returns:
            The names of other files and folders in it, which stay.

        Raises:
            RunError: The run is not over, or nbft did not make the folder.
        """
        status = self.status
        if "delete" not in ALLOWED[status]:
            on = f" on {host}" if (host := self.state.host) else ""
            raise RunError(f"{self.id}: is {status}{on}. Stop it before you delete it.")
        if not is_marked(self.path):
            raise RunError(
                f"{self.id}: has no {MARK}, so it may not be nbft's. Delete the folder {self.path} "
                "yourself."
            )
        return delete(self.path)

    def follow(self) -> Iterator[Event]:
        """Yield every event so far, then each new one, until the run is over."""
        reader = events.EventReader(self.events_path)
        while True:
            over = self.is_over
            yield from reader.read()
            if over:
                return
            time.sleep(_POLL_SECONDS)

    def wait(self) -> Run:
        """Wait until the run is over, and return it. An interrupt leaves the run alone."""
        while not self.is_over:
            time.sleep(_POLL_SECONDS)
        return self

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of log.txt, without secrets."""
        return log_tail(self.path, lines)[0]

    def load_model(self) -> tuple[Any, Any]:
        """Load the tuned model for answering, and return it with its tokenizer.

        It stays in memory for the next call; `close` gives the memory back.

        Raises:
            RunError: The run has no adapter yet.
            ModelError: The base model or its files cannot be loaded.
        """
        if self._loaded is None:
            self._loaded = _load(self)
        return self._loaded

    def generate(self, prompt: str, *, max_new_tokens: int = 64) -> str:
        """Answer a prompt with the tuned model, by greedy decoding; see `nbft.ask` for several.

        Args:
            prompt: Text as the model was trained on it.
            max_new_tokens: Longest answer, in tokens.

        Raises:
            RunError: The run has no adapter yet.
        """
        from nbft.evaluate.generate import generate
        from nbft.models.load import quiet

        check_writes(self)
        with quiet():
            model, tokenizer = self.load_model()
            ids = tokenizer([prompt])["input_ids"]
            return generate(model, tokenizer, ids, max_new_tokens)[0]

    def rewards(
        self, prompt: Prompt | Sequence[Mapping[str, Any]], completions: str | Sequence[str]
    ) -> list[float]:
        """Score answers to a prompt with the reward model that the run has trained.

        Prompt and answer become the tokens that they were in the training. Only differences between
        the answers to one prompt have a meaning.

        Args:
            prompt: A text, the turns of a conversation, a row of the run's dataset (with or without
                answers, which are not read), or an example of `nbft.examples`.
            completions: The answers, or one.

        Returns:
            A score for each answer, higher for a better one.

        Raises:
            RunError: The run trains no reward model, or has none yet.
            DataError: The prompt is empty, or a row does not fit the dataset.
        """
        from nbft.runs.rewarding import rewards

        return rewards(self, prompt, [completions] if isinstance(completions, str) else completions)

    def compare(
        self, prompts: Prompt | Sequence[Prompt] | None = None, *, max_new_tokens: int = 64
    ) -> Comparison:
        """Answer prompts with the base model and with the tuned one, side by side.

        Args:
            prompts: Texts as the model was trained on them, or rows of the run's dataset, whose
                wanted answers are then shown too; the run's own samples when None, which loads no
                model.
            max_new_tokens: Longest answer, in tokens.

        Raises:
            RunError: The run has no answers or no adapter yet.
            DataError: A prompt is empty, or a row does not fit the dataset.
        """
        from nbft.evaluate.compare import Comparison

        check_writes(self)
        if prompts is None:
            samples = self.state.samples
            if len(samples) < 2:
                raise RunError(f"{self.id}: has no answers of its own; give some prompts.")
            return Comparison.of_samples(samples[0]["samples"], samples[-1]["samples"])
        from nbft.evaluate.generate import generate
        from nbft.evaluate.prompts import listed, read_prompts
        from nbft.models.adapters import can_switch_off
        from nbft.models.load import quiet

        with quiet():
            model, tokenizer = self.load_model()
            asked = read_prompts(listed(prompts), self.config, tokenizer)
            ids = [one.ids for one in asked]
            tuned = generate(model, tokenizer, ids, max_new_tokens)
            if can_switch_off(model):
                with model.disable_adapter():
                    base = generate(model, tokenizer, ids, max_new_tokens)
            else:
                base = generate(load_base(self.config)[0], tokenizer, ids, max_new_tokens)
        return Comparison(
            (one.text, before, after, one.wanted)
            for one, before, after in zip(asked, base, tuned, strict=True)
        )

    def chat(
        self,
        checkpoint: int | None = None,
        against: Run | str | Path | int | None = None,
        **settings: Any,
    ) -> Chat:
        """Talk to the base model and to the tuned one, side by side, in the cell.

        Args:
            checkpoint: Step of a checkpoint to talk to instead of the finished run.
            against: What stands beside it: the base model when None, another run, or the step of a
                checkpoint of this one.
            **settings: Settings to begin with, as in `nbft.runs.chat.ChatSettings`, such as
                temperature=0.7.

        Raises:
            RunError: The run has no adapter yet, or writes no answers.
            ConfigError: There is no such checkpoint, or a setting is wrong.
        """
        return facade.chat(self, checkpoint, against, **settings)  # type: ignore[no-any-return]

    def export(
        self,
        to: str,
        path: str | Path | None = None,
        *,
        dtype: str | None = None,
        max_shard_size: str = "5GB",
        repo_id: str | None = None,
        private: bool = True,
        adapter: bool = False,
        yes: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> Exported:
        """Write the trained model for other programs, read it back, and prove that it is the same.

        The export is reloaded by another path than it was written by: it must give the same token
        ids for the run's prompts and for conversations, logits within what its number type can
        hold, and the same greedy answers, and it must stop at the end of its turn. An export whose
        proof fails stays, marked in its README.md and proof.json, with a warning.

        Args:
            to: A format, such as merged or gguf; `nbft.registry.exports` lists them.
            path: Folder to write; RUN-FORMAT in the current folder when None. An earlier export in
                it is replaced.
            dtype: Number type of the weights; that of the base model, or the format's own, when
                None.
            max_shard_size: Largest file of safetensors.
            repo_id: Only for hub: the repository, as owner/name. It is uploaded once its proof has
                passed, with the login of `hf auth login`.
            private: Only for hub: whether a new repository is for its owner alone.
            adapter: Only for hub: upload the adapter, instead of the merged model.
            yes: Only for hub: do not ask before uploading.
            say: Called with what is being done, as a sentence.

        Returns:
            An object with its `path` and its `proof`, a mapping.

        Raises:
            RunError: The run has no finished adapter, cannot be exported so, or the folder cannot be
                written. Nothing is left behind.
            ConfigError: There is no such format or number type.
            ModelError: The base model cannot be loaded.
        """
        return facade.export_run(  # type: ignore[no-any-return]
            self,
            to,
            path,
            dtype=dtype,
            max_shard_size=max_shard_size,
            repo_id=repo_id,
            private=private,
            adapter=adapter,
            yes=yes,
            say=say,
        )

    @property
    def exports(self) -> list[ExportRecord]:
        """The exports so far, the oldest first, each with what its proof found."""
        return read_exports(self.path)

    def curves(self) -> Figure:
        """Draw loss and learning rate over the steps, as a matplotlib Figure."""
        from nbft.runs.curves import draw_curves

        return draw_curves(self.state, title=self.id)

    def report(self) -> Path:
        """Write report.html, one page that holds everything, and return its path."""
        path: Path = facade.write_report(self.path)
        return path

    def receipt(self) -> Receipt:
        """Return what the run took: steps, tokens, time, memory, energy and money."""
        from nbft.runs.receipt import receipt

        return receipt(self.path, self.config, self.state)

    def scores(self) -> Scores:
        """Return the scores of the base model and of the last step."""
        return self.state.scores

    def evaluate(
        self,
        split: str = "validation",
        *,
        metrics: Sequence[str] | None = None,
        rows: int | None = None,
    ) -> Scores:
        """Score the base model and the tuned one now, on rows that were not trained on.

        Args:
            split: validation or test.
            metrics: As evaluation.metrics; those of the run when None.
            rows: How many rows; evaluation.score_rows when None.

        Raises:
            RunError: The run has no adapter yet, or no such rows.
            ConfigError: There is no such metric.
        """
        from nbft.runs.scoring import evaluate

        return evaluate(self, split, metrics, rows)

    def close(self) -> None:
        """Give back the memory of a loaded model."""
        self._loaded = None
        gc.collect()
        from nbft.hardware import release_memory

        release_memory()

    def _ipython_display_(self) -> None:
        """Show the run live; as a line if the cell has shown it already."""
        if self._is_shown:
            print(self)  # noqa: T201 - the plain value of a cell
            self._is_shown = False
        else:
            facade.monitor(self, interactive=False).show()

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {self.status})"


def check_writes(run: Run) -> None:
    """Refuse to let a reward model answer.

    Raises:
        RunError: The run trains one.
    """
    if method_of(run.config).scores_answers:
        raise RunError(
            f"{run.id}: is a reward model, which scores answers and writes none. Use "
            "run.rewards(prompt, completions)."
        )


def list_runs(folder: str | Path = "runs") -> list[Run]:
    """Return the runs in a folder, the newest first."""
    folder = Path(folder).expanduser()
    found: list[tuple[float, Run]] = []
    with contextlib.suppress(OSError):  # there is no such folder, or it may not be read
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError, RunError):  # deleted meanwhile, or no run
                run = Run(entry.path)
                found.append(((run.path / "config.yaml").stat().st_mtime, run))
    return [run for _, run in sorted(found, key=lambda pair: pair[0], reverse=True)]


def unreadable_runs(folder: str | Path = "runs") -> list[str]:
    """Return a sentence for each folder beside the runs that cannot be read as one."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(Path(folder).expanduser().iterdir()):
            config = path / "config.yaml"
            try:
                if path.is_dir() and config.lstat():
                    open_file(config).close()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                found.append(f"{one_line(path.name)}: cannot be read: {why_not(error)}.")
    return found


def attach(run: str | Path, folder: str | Path = "runs") -> Run:
    """Return a run, old or running, by its name or its folder.

    Args:
        run: Name such as kind-otter-14, or the path of its folder.
        folder: Folder in which runs are found by name.

    Raises:
        RunError: There is no such run; the message has the nearest name.
    """
    for path in (Path(run).expanduser(), Path(folder).expanduser() / str(run)):
        if is_run(path):
            return Run(path)
    known = [other.id for other in list_runs(folder)]
    close = difflib.get_close_matches(str(run), known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise RunError(f"{run}: is no run in {Path(folder).absolute()} ({len(known)} there).{hint}")


def self_contained(config: Config, run: Path | None, folder: Path | None) -> Config:
    """Return a copy of a config that depends on nothing but absolute paths.

    Args:
        config: The config.
        run: Folder of the run to write rows in memory to; they stay in memory if None.
        folder: Folder of the config file, for relative paths.
    """
    copy = config.override()
    for split, block in copy.data.splits().items():
        for number, dataset in enumerate(block.datasets):
            if dataset.rows is not None and run is not None:
                target = run / "data" / f"{split}-{number}.jsonl"
                target.parent.mkdir(exist_ok=True)
                with target.open("w", encoding="utf-8") as file:
                    for row in dataset.rows:
                        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                dataset.rows, dataset.path = None, str(target)
            elif dataset.path is not None:
                dataset.path = str(resolve(dataset.path, folder))
            for part in ("prompt_func", "completion_func"):
                setattr(dataset, part, _absolute_function(getattr(dataset, part), folder))
    copy.evaluation.metric_function = _absolute_function(copy.evaluation.metric_function, folder)
    for reward in copy.grpo.rewards:
        reward.function = _absolute_function(reward.function, folder) or reward.function
        given = reward.options.get("model")
        if isinstance(given, str) and given and resolve(given, folder).is_dir():
            reward.options = {**reward.options, "model": str(resolve(given, folder))}
    for name in ("model_name", "tokenizer_name", "adapter_name_or_path"):
        given = getattr(copy.model, name)
        files = ("config.json", "adapter_config.json", "tokenizer_config.json")
        if given and any((resolve(given, folder) / file).is_file() for file in files):
            setattr(copy.model, name, str(resolve(given, folder)))
    if copy.model.chat_template_path:
        copy.model.chat_template_path = str(resolve(copy.model.chat_template_path, folder))
    return copy


def _check_checkpoint(plan: Plan, folder: Path | None) -> None:
    """Check whether a run can go on from the checkpoint that it names.

    Raises:
        ConfigError: It cannot.
    """
    config, asked = plan.config, plan.config.training.resume_from_checkpoint
    if not asked or asked == "auto" or plan.total_steps is None or plan.steps_per_epoch is None:
        return
    if (checkpoint := resume_point(config, Path())) is not None:
        from nbft.runs.provenance import check_start

        there = self_contained(config, None, folder)
        check_start(there, checkpoint, step_of(checkpoint), plan.steps_per_epoch, plan.total_steps)


def _absolute_function(written: str | None, folder: Path | None) -> str | None:
    """Return path/to/file:function with the absolute path; anything else as it is."""
    where, _, name = (written or "").rpartition(":")
    file = resolve(where if where.endswith(".py") else f"{where}.py", folder)
    return f"{file}:{name}" if where and file.is_file() else written


def _load(run: Run) -> tuple[Any, Any]:
    folder = run.adapter
    if folder is None:
        raise RunError(f"{run.id}: has no adapter yet; it is {run.status}.")
    return load_tuned(run.config, folder)


@apart()
def load_tuned(
    config: Config, folder: Path, dtype: str | None = None, *, for_answers: bool = True
) -> tuple[Any, Any]:
    """Load a tuned model, adapter and base model apart, and return it with its tokenizer.

    Args:
        config: The config of its run.
        folder: Folder of the adapter, or of all weights; also of a checkpoint.
        dtype: Number type to compute in; that of the run when None.
        for_answers: As in `nbft.models.load.load_model`.

    Raises:
        ModelError: The base model or its files cannot be loaded.
    """
    from nbft.models.load import load_model, load_tokenizer

    tokenizer = load_tokenizer(config.apply({"model.tokenizer_name": None}), folder)
    if not (folder / "adapter_config.json").is_file():
        from nbft.decisions import decide

        decisions = decide(config)
        whole = config.apply({"model.load_pretrained_weights": True})
        device = decisions.device.value
        model = load_model(
            whole,
            folder,
            dtype or decisions.dtype.value,
            device,
            for_answers=for_answers,
            scores_answers=method_of(config).scores_answers,
        ).to(device)
    else:
        from nbft.models.adapters import with_adapter

        base = load_base(config, dtype, for_answers=for_answers)[0]
        if method_of(config).scores_answers:
            base.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        model = with_adapter(base, folder)
    return model.eval(), tokenizer


@apart()
def load_base(
    config: Config, dtype: str | None = None, *, for_answers: bool = True
) -> tuple[Any, Path]:
    """Load the base model of a config, and return it with its folder; arguments as `load_tuned`.

    Raises:
        ModelError: It is nowhere to be found, or cannot be loaded.
    """
    from nbft.decisions import decide
    from nbft.models.adapters import base_name
    from nbft.models.find import find_model
    from nbft.models.load import load_model, place

    path = find_model(base_name(config), config.model.model_revision, lambda _: None).path
    decisions = decide(config, path)
    device = decisions.device.value
    model = load_model(
        config,
        path,
        dtype or decisions.dtype.value,
        device,
        for_answers=for_answers,
        scores_answers=method_of(config).scores_answers,
    )
    return place(model, device).eval(), path
