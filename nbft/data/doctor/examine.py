"""`doctor`: from a config to a report on its rows."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from nbft.config import Config
from nbft.data.doctor.checks import findings
from nbft.data.doctor.measure import Say, measure
from nbft.data.doctor.report import Report
from nbft.errors import ConfigError
from nbft.formatting import count, duration
from nbft.models.context import context_tokens
from nbft.presented import in_notebook


def doctor(
    config: Config,
    *,
    sample: int | None = None,
    folder: str | Path | None = None,
    say: Say | None = None,
) -> Report:
    """Check the rows of a config for problems, and propose fixes.

    Reads every row of every split once, in bounded memory, and tokenises it as the training will;
    trains nothing. The model is downloaded if it is not on this machine yet.

    Args:
        config: The config whose rows are checked.
        sample: Check about this many rows, spread evenly over all; all when None.
        folder: Folder of the config file, for relative paths.
        say: Told the progress once a second; a line on the screen when None. An interrupt, or a
            `StoppedError` raised by it, ends the check with a report on the rows checked until then.

    Raises:
        ConfigError: sample is below 1.
        ModelError: No source could give the model, or it has no tokenizer.
        StoppedError: Raised by say before any row was checked.
        TypeError: config is not a config.
    """
    if not isinstance(config, Config):
        raise TypeError(f"config is a {type(config).__name__}. Give an nbft.Config.")
    if sample is not None and sample < 1:
        raise ConfigError(f"sample={sample}: is not at least 1. Leave it out to check all rows.")
    is_shown = say is None and (sys.stdout.isatty() or in_notebook())
    width = 0

    def show(text: str) -> None:
        """Replace the line of progress, where somebody can see it."""
        nonlocal width
        if is_shown:
            sys.stdout.write(f"\r{text:<{width}}")
            sys.stdout.flush()
            width = len(text)

    say = say or show
    began = time.monotonic()
    say("Loading the tokenizer …")
    from nbft.models.find import find_model
    from nbft.models.load import load_tokenizer

    base = Path(folder) if folder is not None else None
    model = find_model(config.model.model_name, config.model.model_revision, say).path
    tokenizer = load_tokenizer(config, model, base)
    # It would warn of a row longer than the model reads; that is what `cut` is for.
    tokenizer.model_max_length = sys.maxsize
    say("Reading the rows …")
    seen = measure(config, tokenizer, folder=base, sample=sample, say=say)
    seen.context_tokens = context_tokens(model)
    say("Comparing the rows …")
    report = Report.of(seen, findings(seen), base)
    report.seconds = time.monotonic() - began
    show(f"Checked {count(report.looked_at, 'row')} in {duration(report.seconds)}.")
    if is_shown:
        sys.stdout.write("\n")
    return report
