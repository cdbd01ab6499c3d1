"""Which architectures have a class that scores texts, as a reward model does. Loads no library.

transformers lists its classes in a module that imports torch, so its source is read instead.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

HEAD = "score"
"""Name of the head in transformers' classes of decoders."""


def scoring_obstacle(model_type: str) -> str:
    """Return why models of a type cannot be reward models; "" if they can, or nothing is known.

    Args:
        model_type: As in config.json.
    """
    known = _classes()
    if not known:
        return ""
    if (name := known.get(model_type)) is None:
        return f"transformers has no class for sequence classification with {model_type} models"
    if _has_score(model_type, name) is False:
        return f"{name} does not read its score at the last token, as a reward model does"
    return ""


def _models() -> Path | None:
    spec = importlib.util.find_spec("transformers")
    return Path(spec.origin).parent / "models" if spec and spec.origin else None


@functools.cache
def _classes() -> dict[str, str]:
    """Return the class for sequence classification of each type; {} where the list is not found."""
    folder = _models()
    try:
        text = (folder or Path()).joinpath("auto", "modeling_auto.py").read_text(encoding="utf-8")
    except OSError:
        return {}
    listed = re.search(
        r"^MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES\b.*?^\)", text, re.DOTALL | re.MULTILINE
    )
    return dict(re.findall(r'\("([^"]+)",\s*"(\w+)"\)', listed[0])) if listed else {}


@functools.cache
def _has_score(model_type: str, name: str) -> bool | None:
    """Return whether a class has the head of a decoder; None where its source is not found."""
    folder, kind = _models() or Path(), model_type.replace("-", "_")
    for module in (kind, kind.removesuffix("_text")):
        try:
            text = (folder / module / f"modeling_{module}.py").read_text(encoding="utf-8")
        except OSError:
            continue
        found = re.search(
            rf"^class {name}\((.*?)\):(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE
        )
        if found:
            return "GenericForSequenceClassification" in found[1] or "self.score" in found[2]
    return None
