"""`Format`: one kind of export. Loads nothing heavy at import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from nbft.errors import RunError
from nbft.models.find import first_line

if TYPE_CHECKING:
    from nbft.export.proof import Case, Observed, Reread
    from nbft.export.trained import Trained
    from nbft.runs.folder import Run

Say = Callable[[str], None]

BYTES = {
    "float32": 4.0,
    "float16": 2.0,
    "bfloat16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "q6_k": 6.6 / 8,
    "q5_k_m": 5.7 / 8,
    "q5_k_s": 5.6 / 8,
    "q4_k_m": 4.9 / 8,
    "q4_k_s": 4.7 / 8,
    "q3_k_m": 4.0 / 8,
    "q2_k": 3.2 / 8,
    "8bit": 8.5 / 8,
    "6bit": 6.5 / 8,
    "4bit": 4.5 / 8,
}
"""Bytes of a weight by number type; a block of 32 weights has a scale, and an offset in the `_1`. The
k-types mix several, here as llama.cpp's page of llama-quantize has them for Llama-3.1-8B, rounded.
MLX's have a scale and an offset for 64 weights."""


SHORT = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""llama.cpp's names of number types, which are accepted everywhere."""

HELP = {
    "dtype": "Fewer bits make a smaller export, further from the trained model; the proof says how far.",
    "max_shard_size": "Largest file of weights, such as 5GB or 500MB.",
    "repo_id": "Name of the repository, as owner/name.",
    "private": "A new repository can be seen by its owner alone.",
    "adapter": "Upload the adapter instead of the merged model; it needs the base model.",
}
"""What each of the `Options` is for, in a sentence; `yes` is given in code only."""


@dataclass(frozen=True)
class Options:
    """What a person may choose about an export.

    Attributes:
        dtype: Number type of the weights; the format's own choice when None.
        max_shard_size: Largest file of safetensors, as in transformers' save_pretrained.
        repo_id: Name of a repository on the Hub.
        private: Whether a new repository is only for its owner.
        adapter: Whether the adapter is uploaded, instead of the merged model.
        yes: Whether the person has agreed already, and is not asked.
    """

    dtype: str | None = None
    max_shard_size: str = "5GB"
    repo_id: str | None = None
    private: bool = True
    adapter: bool = False
    yes: bool = False


class Format:
    """One kind of export; a subclass in its own file overrides what differs.

    Attributes:
        title: What it is, for people.
        name: The same in a word or two, for a button; the title when "".
        about: Who loads it, in a sentence.
        dtypes: Number types that the weights can have; () where they stay as they are.
        options: Names of the `Options` that it uses.
    """

    title: ClassVar[str]
    name: ClassVar[str] = ""
    about: ClassVar[str] = ""
    dtypes: ClassVar[tuple[str, ...]]
    options: ClassVar[tuple[str, ...]] = ("dtype",)

    def writer(self, options: Options) -> Format:
        """Return the format that writes and reads the folder."""
        return self

    def check_options(self, options: Options) -> None:
        """Check what only this format needs of the options.

        Raises:
            RunError: An option is missing or wrong.
        """

    def question(self, run: Run, options: Options) -> str:
        """Return what a person has to agree to before the export begins; "" for nothing."""
        return ""

    def check(self, run: Run, options: Options) -> None:
        """Check, and ask for, what else only this format needs, before anything is loaded.

        Raises:
            RunError: It cannot be exported.
        """

    def front_matter(self, trained: Trained, options: Options) -> dict[str, Any]:
        """Return the metadata at the beginning of README.md; {} for none."""
        return {}

    def place(self, folder: Path, options: Options) -> PurePath:
        """Return where people will find the export."""
        return folder

    def publish(self, folder: Path, options: Options, say: Say) -> None:
        """Do what follows a proof that passed.

        Raises:
            RunError: It failed; the folder stays.
        """

    def obstacle(self, run: Run) -> str:
        """Return why a run cannot be exported so, before anything is loaded; "" if it can.

        A sentence, and what to do instead.
        """
        return ""

    def model_obstacle(self, trained: Trained) -> str:
        """Return why the loaded model cannot be exported so; "" if it can."""
        return ""

    def offered_dtypes(self) -> tuple[str, ...]:
        """Return the number types that can be written on this machine."""
        return self.dtypes

    def dtype_obstacle(self, dtype: str) -> tuple[str, str]:
        """Return why a number type cannot be written on this machine, and what to do instead."""
        why = f"is none of the number types of {{to}}: {', '.join(self.offered_dtypes())}."
        return why, f"Use {self.dtypes[0]}."

    def default_dtype(self, stored_dtype: str) -> str:
        """Return the number type of the weights if nobody chooses one; "" where there is no choice.

        Args:
            stored_dtype: Number type of the base model's files.
        """
        if not self.dtypes:
            return ""
        return stored_dtype if stored_dtype in self.dtypes else self.dtypes[0]

    def dtype(self, trained: Trained, options: Options) -> str:
        """Return the number type of the weights."""
        return options.dtype or self.default_dtype(trained.stored_dtype)

    def weight_bytes(self, run: Run, parameters: int, dtype: str) -> int:
        """Return about how many bytes the export takes on the disk.

        Args:
            run: The run.
            parameters: Parameters of its model.
            dtype: Number type of the weights in the export.
        """
        return int(parameters * BYTES[dtype])

    def passing_bytes(self, parameters: int, dtype: str) -> int:
        """Return how many bytes are taken while it is written, and are free again afterwards."""
        return 0

    def prepare(self, trained: Trained) -> Any:
        """Return the plain model, not rounded yet; None where the adapter stays apart."""
        return None

    def round(self, trained: Trained, dtype: str, folder: Path) -> Any:
        """Round the weights of the plain model as the export in the folder does, in place; return it."""
        return None

    def write(self, trained: Trained, folder: Path, dtype: str, options: Options, say: Say) -> None:
        """Write the export into an empty folder.

        Raises:
            RunError: It cannot be written so.
        """
        raise NotImplementedError

    def read(self, folder: Path, trained: Trained) -> tuple[Any, Any]:
        """Read the export back, by other means than it was written, with its tokenizer."""
        raise NotImplementedError

    def observe(
        self, folder: Path, trained: Trained, cases: Sequence[Case], expected: Observed, say: Say
    ) -> tuple[Observed, Any]:
        """Read the export back, ask it what the trained model was asked, and return its tokenizer too.

        Args:
            folder: The export.
            trained: The trained model, which is no longer loaded.
            cases: What to ask.
            expected: What the trained model made of it.
            say: Called during what takes long; what it raises ends it.

        Raises:
            RunError: It cannot be read back.
        """
        from nbft.export.proof import observe

        try:
            model, tokenizer = self.read(folder, trained)
        except Exception as error:
            raise RunError(f"The export cannot be read back ({first_line(error)}).") from error
        return observe(model, tokenizer, cases, expected), tokenizer

    def reread(
        self, folder: Path, cases: Sequence[Case], trained: Observed, tokenizer: Any, say: Say
    ) -> Reread | None:
        """Ask llama.cpp what the trained model was asked; None where it does not read such an export.

        Args:
            folder: The export.
            cases: What to ask.
            trained: What the trained model made of it.
            tokenizer: The tokenizer that `read` has returned.
            say: Called before each stage; what it raises ends it.
        """
        return None

    def read_by(self) -> str:
        """Return what `read` reads it with, and its version."""
        return f"transformers {version('transformers')}"

    def usage(self, folder: PurePath, trained: Trained) -> str:
        """Return how it is used, in Markdown.

        Args:
            folder: Where it will be.
            trained: What was exported; its model is no longer loaded.
        """
        raise NotImplementedError
