"""`doctor`: from a config to a report on its rows."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from nbft.config import Config
from nbft.data.doctor.checks import findings
from nbft.data.doctor.measure import Say, measure
from nbft.data.doctor.report import Report
from nbft.errors import ConfigError
from nbft.formatting import count, duration


def doctor(
    config: Config,
    *,
    sample: int | None = None,
    folder: str | Path | None = None,
    say: Say | None = None,
) -> Report:
    """Look for what is wrong with the rows of a config, and for what mends it.

    Reads every row of every split once, in bounded memory, and cuts it into tokens as the training
    will; trains nothing. The model is fetched where it is not on this machine yet.

    Args:
        config: The config whose rows are looked at.
        sample: Look at about this many rows, spread evenly over all; at all when None.
        folder: Folder of the config file, for relative paths.
        say: Told once a second how far it is; a line on the screen when None.

    Raises:
        ConfigError: sample is below 1.
        ModelError: No source could give the model, or it has no tokenizer.
        TypeError: config is no config.
    """
    if not isinstance(config, Config):
        raise TypeError(f"config is a {type(config).__name__}. Give an nbft.Config.")
    if sample is not None and sample < 1:
        raise ConfigError(f"sample={sample}: is not at least 1. Leave it out to look at all rows.")
    base = Path(folder) if folder is not None else None
    line = _Line()
    began = time.monotonic()
    report = _report(config, sample, base, say or line.show)
    report.seconds = time.monotonic() - began
    if say is None:
        line.end(f"Checked {count(report.looked_at, 'row')} in {duration(report.seconds)}.")
    return report


def _report(config: Config, sample: int | None, folder: Path | None, say: Say) -> Report:
    say("Loading the tokenizer …")
    from nbft.models.find import find_model
    from nbft.models.load import load_tokenizer

    found = find_model(config.model.model_name, config.model.model_revision, say)
    tokenizer = load_tokenizer(config, found.path, folder)
    # It warns once of a row longer than the model reads; that is what `cut` is for.
    tokenizer.model_max_length = sys.maxsize
    say("Reading the rows …")
    seen = measure(config, tokenizer, folder=folder, sample=sample, say=say)
    seen.context_tokens = _context_tokens(found.path)
    say("Comparing the rows …")
    return Report.of(seen, findings(seen), folder)


def _context_tokens(model: Path) -> int | None:
    """Return the most tokens that a model reads, as its config.json says."""
    try:
        about = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = about.get("max_position_embeddings") or about.get("n_positions")
    return found if isinstance(found, int) else None


class _Line:
    """A line of progress that is written over, where somebody can see it."""

    def __init__(self) -> None:
        self._is_seen = sys.stdout.isatty() or "ipykernel" in sys.modules
        self._width = 0

    def show(self, text: str) -> None:
        """Put a text in place of the last one."""
        if self._is_seen:
            sys.stdout.write(f"\r{text:<{self._width}}")
            sys.stdout.flush()
            self._width = len(text)

    def end(self, text: str) -> None:
        """Show the last text."""
        self.show(text)
        if self._is_seen:
            sys.stdout.write("\n")
