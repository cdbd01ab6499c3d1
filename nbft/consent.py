"""Consent to code that a config names: asked once for each function and the content of its file.

A config is data. What it names is imported only after the person who runs it has agreed: in a cell
of their own, with a button, a flag or a keyword. The consent is an empty file whose name is the
digest of the code, in a folder of that person; to withdraw it, delete the file. Loads no library.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from nbft.errors import Problem


@dataclass(frozen=True)
class Code:
    """Code that a config would run.

    Attributes:
        setting: The setting that names it, by its dotted path.
        name: As the setting names it.
        place: Where it is: a file and a function in it, a package with its version, or a model.
        content: What the consent is for; if it changes, it is asked for again.
        source: Its text, to be read before consenting; "" where it is not at hand.
        refusal: Why it may not run in a config that somebody else made; "" if it may.
    """

    setting: str
    name: str
    place: str
    content: bytes = field(repr=False)
    source: str = ""
    refusal: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of place and content, in hexadecimal."""
        parts = (self.place.encode(), self.content)
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    @property
    def problem(self) -> Problem:
        """What to say while nobody has consented."""
        if self.refusal:
            return Problem(self.setting, self.name, self.refusal, "Write path/to/file:function.")
        why = f"would run code from {self.place}, which you have not allowed."
        fix = (
            "Read it, then allow it: with the button in the form, --allow-code on the command "
            "line, or allow_code=True in Python."
        )
        return Problem(self.setting, self.name, why, fix)


_this_session: set[str] = set()


def consent_folder() -> Path:
    """Return the folder of this person's consents: $NBFT_CONSENT, else one in the home folder."""
    if given := os.environ.get("NBFT_CONSENT"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "nbft" / "allowed"


def allow_here(code: Code) -> None:
    """Consent to code for this process only.

    Raises:
        ValueError: Its refusal.
    """
    if code.refusal:
        raise ValueError(code.refusal)
    _this_session.add(code.digest)


def allow(code: Code) -> None:
    """Consent to code, for this process and, if the folder can be written, for later ones.

    Raises:
        ValueError: Its refusal.
    """
    allow_here(code)
    folder = consent_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / code.digest).write_text(f"{code.name}\n{code.place}\n", encoding="utf-8")
    except OSError:  # a home that cannot be written: this process alone remembers it
        pass


def is_allowed(code: Code) -> bool:
    """Whether this person has consented to exactly this code."""
    if code.digest in _this_session:
        return True
    try:
        found = (consent_folder() / code.digest).stat()
    except OSError:
        return False
    return not hasattr(os, "getuid") or found.st_uid == os.getuid()
