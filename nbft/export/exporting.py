"""`run.export`: write a trained model for other programs, read it back, and prove that it is the same.

The folder appears when it is whole, with its proof in proof.json and README.md. An export whose
proof fails stays, and says so in both. Called through `nbft.facade`.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbft import registry
from nbft.atomic import replacing
from nbft.config import Config
from nbft.errors import ConfigError, NbftError, Problem, RunError
from nbft.export.format import SHORT, Format, Options, Say
from nbft.export.proof import Observed, Proof, cases_of, logits_of, observe, prove
from nbft.export.readme import readme
from nbft.export.trained import Trained, end_of_turn, load_trained, stored_dtype
from nbft.formatting import size
from nbft.hardware import release_memory
from nbft.models.adapters import can_switch_off
from nbft.models.load import quiet
from nbft.pages.report import write_report
from nbft.runs.exports import PROOF, add_export
from nbft.runs.folder import Run, check_writes
from nbft.training.failure import is_disk_full

_OTHER_BYTES = 64 * 2**20
"""Tokenizer, template, proof and what the file system needs; tokenizers take up to 40 MB."""

_CODE = re.compile(r"```(\w*)\n(.*?)\n```", re.DOTALL)
_SIZE = re.compile(r"\d+(\.\d+)?\s*[KMGT]B", re.IGNORECASE)
"""As huggingface_hub reads the size of a shard."""

_ONNX = (
    "is not written: its exporter, optimum-onnx 0.1.0, needs transformers below 4.58, and nbft needs "
    "transformers 5."
)
_OPTIMUM = (
    'Use to="merged", and in an environment of its own: pip install "optimum-onnx[onnxruntime]", then '
    "optimum-cli export onnx --model FOLDER OUTPUT."
)

_REFUSED = {"onnx": (_ONNX, _OPTIMUM)}
"""Formats that people ask for, and what works instead."""


@dataclass(frozen=True)
class Exported:
    """An export.

    Attributes:
        path: Its folder.
        proof: What was found when it was read back.
        usage: How it is used, in Markdown.
    """

    path: Path
    proof: Proof
    usage: str

    @property
    def commands(self) -> list[str]:
        """The code blocks of `usage`."""
        return [code for _, code in _CODE.findall(self.usage)]

    def __repr__(self) -> str:
        return f"{self.path}\n{self.proof}"

    def _repr_markdown_(self) -> str:
        return f"`{self.path}`\n\n{self.proof}\n\n{self.usage}"


class SettledRun(Run):
    """A run that is over, for a form that asks about it at every key: its config is read once."""

    @functools.cached_property
    def config(self) -> Config:
        """The config that the run was started with."""
        return super().config


@dataclass(frozen=True)
class Foreseen:
    """What an export will be, as far as that is known before anything is loaded.

    Attributes:
        dtype: Number type of its weights; "" where they stay as they are.
        needed_bytes: About how much of the disk it takes, by each number type that the weights can
            have, or by ""; {} if the size of the model is not known.
        free_bytes: How much is free there.
        folder: Folder that will be written.
        question: What a person has to agree to first; "" for nothing.
        problem: Why it cannot be written; "" if nothing is known to be against it.
        start: What is done, in a word or two.
    """

    dtype: str
    needed_bytes: dict[str, int]
    free_bytes: int
    folder: Path
    question: str
    problem: str
    start: str

    def offer(self, dtype: str | None = None) -> str:
        """Return what will be done, for a button: "Export as GGUF (q8_0), about 145 MiB".

        Args:
            dtype: A number type; that of the export when None.
        """
        dtype = self.dtype if dtype is None else dtype
        of_type = f" ({dtype})" if dtype else ""
        needed = self.needed_bytes.get(dtype)
        return f"{self.start}{of_type}" + (f", about {size(needed)}" if needed is not None else "")


def foresee(
    run: Run,
    to: str,
    path: str | Path | None = None,
    *,
    parameters: int | None,
    **options: Any,
) -> Foreseen:
    """Return what an export will be.

    Args:
        run: The run, which has an adapter.
        to: Its format.
        path: Folder to write, as in `Run.export`.
        parameters: Parameters of the model; None if they are not known.
        **options: Fields of `Options`.

    Raises:
        ConfigError: There is no such format.
    """
    form, given = _format(to), Options(**options)
    writer, folder = form.writer(given), _folder(run, to, path)
    dtype = given.dtype or writer.default_dtype(stored_dtype(run))
    dtype = SHORT.get(dtype, dtype)
    needed, problem = {}, ""
    if parameters or not writer.dtypes:
        types = writer.offered_dtypes() or ("",)
        needed = {one: writer.weight_bytes(run, parameters or 0, one) for one in types}
    try:
        _checked(run, to, path, given)
        if dtype in needed:
            _check_room(folder, needed[dtype] + writer.passing_bytes(parameters or 0, dtype))
    except NbftError as error:
        problem = str(error)
    question = form.question(run, given)
    start = f"Export as {form.name or form.title}"
    if question:
        start = f"Upload to {given.repo_id or 'the Hub'}"
    free = shutil.disk_usage(_existing(folder)).free
    return Foreseen(dtype, needed, free, folder, question, problem, start)


def export_run(
    run: Run,
    to: str,
    path: str | Path | None = None,
    *,
    say: Say = lambda _: None,
    **options: Any,
) -> Exported:
    """Export a run, and warn if its proof fails; see `Run.export`."""
    exported = write_export(run, to, path, say=say, **options)
    if not exported.proof.passed:
        warnings.warn(f"{exported.path}: {exported.proof.sentence}", stacklevel=4)
    return exported


def write_export(
    run: Run,
    to: str,
    path: str | Path | None = None,
    *,
    say: Say = lambda _: None,
    **options: Any,
) -> Exported:
    """Export a run. What `say` raises ends it, and nothing of it is left.

    Args:
        run: The run.
        to: Key of `nbft.registry.exports`.
        path: Folder to write, as in `Run.export`.
        say: Called before each stage with a sentence.
        **options: Fields of `Options`.

    Raises:
        RunError, ConfigError, ModelError: As `Run.export`.
    """
    form, writer, chosen, target = _checked(run, to, path, Options(**options))
    form.check(run, chosen)
    with quiet():
        say("Loading the trained model …")
        trained = load_trained(run)
        if why := writer.model_obstacle(trained):
            raise RunError(f"{run.id}: cannot be exported to {to}. {why}")
        dtype = writer.dtype(trained, chosen)
        needed = writer.weight_bytes(run, trained.parameters, dtype)
        _check_room(target, needed + writer.passing_bytes(trained.parameters, dtype))
        usage = writer.usage(form.place(target, chosen), trained)
        front = form.front_matter(trained, chosen)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as partial:
                partial.mkdir()
                proof = _write(writer, trained, partial, dtype, chosen, say)
                text = readme(run, writer.title, dtype, proof, usage, front)
                (partial / "README.md").write_text(text, encoding="utf-8")
                shown = json.dumps(proof, indent=2)
                (partial / PROOF).write_text(f"{shown}\n", encoding="utf-8")
        except NbftError:
            raise
        except Exception as error:
            if sentence := _known(error, target):
                raise RunError(f"{target}: {sentence}") from error
            raise
        finally:
            trained.model = None
            release_memory()
    exported = Exported(target, proof, usage)
    _record(run, to, exported)
    if proof.passed:
        form.publish(target, chosen, say)
    return exported


def _checked(
    run: Run, to: str, path: str | Path | None, options: Options
) -> tuple[Format, Format, Options, Path]:
    """Return the format, the one that writes it, the options with defaults, and the folder.

    Raises:
        RunError: The run cannot be exported so, or something else is in the folder.
        ConfigError: There is no such format, or an option is wrong.
    """
    form = _format(to)
    writer = form.writer(options)
    chosen = replace(options, dtype=_dtype(writer, to, options.dtype))
    if not _SIZE.fullmatch(chosen.max_shard_size.strip()):
        why = "is no size of a file."
        fix = "Write a number with KB, MB, GB or TB, such as 5GB."
        raise ConfigError(Problem("max_shard_size", chosen.max_shard_size, why, fix))
    form.check_options(chosen)
    if run.adapter is None:
        raise RunError(f"{run.id}: has no finished adapter to export; it is {run.status}.")
    check_writes(run)
    if why := writer.obstacle(run):
        raise RunError(f"{run.id}: cannot be exported to {to}. {why}")
    return form, writer, chosen, _target(run, to, path)


def _format(to: str) -> Format:
    if to in _REFUSED:
        raise ConfigError(Problem("to", to, *_REFUSED[to]))
    if to not in registry.exports:
        why, _, close = registry.exports.unknown(to)
        raise ConfigError(Problem("to", to, why, f"Use {close or 'merged'}."))
    form: Format = registry.exports.get(to)
    return form


def _dtype(form: Format, to: str, dtype: str | None) -> str | None:
    """Return a number type by its name in torch."""
    if dtype is None:
        return None
    named = SHORT.get(dtype.lower(), dtype.lower())
    if named in form.offered_dtypes():
        return named
    if not form.dtypes:
        raise ConfigError(Problem("dtype", dtype, f"does not apply to {to}.", "Leave it out."))
    why, fix = form.dtype_obstacle(named)
    raise ConfigError(Problem("dtype", dtype, why.replace("{to}", to), fix))


def _folder(run: Run, to: str, path: str | Path | None) -> Path:
    return Path(path or f"{run.id}-{to}").expanduser().absolute()


def _target(run: Run, to: str, path: str | Path | None) -> Path:
    """Return the folder to write; an earlier export in it is replaced.

    Raises:
        RunError: Something else is there.
    """
    target = _folder(run, to, path)
    is_free = not target.exists() or (target.is_dir() and not any(target.iterdir()))
    if not is_free and not (target / PROOF).is_file():
        raise RunError(f"{target}: is there already and no export of nbft. Choose another folder.")
    return target


def _check_room(target: Path, weight_bytes: int) -> None:
    needed, free = weight_bytes + _OTHER_BYTES, shutil.disk_usage(_existing(target)).free
    if needed > free:
        raise RunError(
            f"{target}: the export needs about {size(needed)}, and {size(free)} are free. Free some "
            "space, or choose a folder on another disk."
        )


def _existing(folder: Path) -> Path:
    """Return the nearest folder above that is there."""
    return next(parent for parent in folder.parents if parent.is_dir())


def _known(error: Exception, target: Path) -> str:
    """Say in a sentence what kept an export from being written; "" where it may be a fault of ours."""
    if is_disk_full(error, _existing(target)):
        return "the disk is full. Free some space, or choose a folder on another disk."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "memory ran out. Close other models with run.close() and nbft.release_model()."
    if isinstance(error, OSError):
        return f"cannot be written: {(error.strerror or str(error)).lower()}."
    return ""


def _write(
    form: Format, trained: Trained, folder: Path, dtype: str, options: Options, say: Say
) -> Proof:
    """Write an export into a folder, and read it back."""
    samples = trained.run.state.samples
    cases = cases_of(samples[-1]["samples"] if samples else [], trained.tokenizer)
    say("Answering with the trained model …")
    expected = observe(trained.model, trained.tokenizer, cases)
    base = _of_base(trained, expected)
    say("Writing the export …")
    merged = form.prepare(trained)
    whole = merged and [logits_of(merged, row) for row in expected.rows]
    form.write(trained, folder, dtype, options, say)
    known = merged and form.round(trained, dtype, folder)
    known = known and [logits_of(known, row) for row in expected.rows]
    del merged
    trained.model = None
    release_memory()
    say("Reading it back …")
    found, tokenizer = form.observe(folder, trained, cases, expected, say)
    release_memory()
    reread = form.reread(folder, cases, expected, tokenizer, say)
    return prove(
        expected,
        found,
        merged=whole or expected.logits,
        rounded=known or expected.logits,
        dtype=dtype,
        computed_in=trained.dtype,
        end=end_of_turn(trained.tokenizer),
        read_by=form.read_by(),
        base=base,
        reread=reread,
    )


def _of_base(trained: Trained, expected: Observed) -> list[Any] | None:
    """Return the logits of the base model for the rows that are compared; None if it is not at hand."""
    if not can_switch_off(trained.model):
        return None
    with trained.model.disable_adapter():
        return [logits_of(trained.model, row) for row in expected.rows]


def _record(run: Run, to: str, exported: Exported) -> None:
    """Note the export in the run's folder, for its report."""
    proof = exported.proof
    add_export(run.path, to, exported.path, proof, proof.sentence, exported.commands)
    if (run.path / "report.html").is_file():
        write_report(run.path)
