"""README.md of an export: what it is, how it was trained and is used, and what its proof found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft.export.adapter import hub_base
from nbft.formatting import count, number
from nbft.models.peft_types import described
from nbft.runs.curves import in_words

if TYPE_CHECKING:
    from nbft.export.proof import Proof
    from nbft.runs.folder import Run


def readme(
    run: Run, title: str, dtype: str, proof: Proof, usage: str, front: Mapping[str, Any]
) -> str:
    """Return the text of README.md. It holds no path of this machine but that of the export.

    Args:
        run: The run.
        title: What kind of export it is.
        dtype: Number type of its weights.
        proof: Its proof.
        usage: How it is used, in Markdown.
        front: Metadata of a model card; {} for none.
    """
    lines = []
    if front:  # JSON is YAML
        lines += ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---"]
    base = hub_base(run)
    if Path(base).is_absolute():
        base = Path(base).name
    lines += [f"# {run.id}", "", f"{base}, fine-tuned with nbft: the {title}, in {dtype}.", ""]
    if not proof.passed:
        lines += ["> **The proof of this export failed: it is not the trained model.**", ""]
    lines += ["## Use", "", usage, "", "## Training", "", *_training(run)]
    lines += ["", "## Proof", "", *_proof(proof)]
    return "\n".join(lines) + "\n"


def _training(run: Run) -> list[str]:
    """Return how it was trained, from what the report shows."""
    config, state = run.config, run.state
    rows = state.prepared.get("rows")
    names = [Path(dataset.called).name for _, dataset in config.data.named_datasets()]
    table = [
        ("method", f"{config.training.method}, {described(config) or 'full training'}"),
        ("data", ", ".join(dict.fromkeys(names))),
        ("training rows", count(rows) if rows else ""),
        ("steps", count(run.step)),
        ("learning rate", number(config.training.learning_rate or 0)),
    ]
    lines = _table("setting", [(name, text) for name, text in table if text])
    if words := in_words(state):
        lines += ["", words]
    return [*lines, *(["", " ".join(state.scores.sentences)] if state.scores else [])]


def _proof(proof: Proof) -> list[str]:
    """Return the proof as a table, and why it failed."""
    nearer, tolerance = proof["nearer_than_base"], number(proof["logit_tolerance"])
    largest = number(proof["largest_logit_difference"])
    written = number(proof["written_difference"])
    rows = [
        ("passed", _word(proof.passed)),
        ("read back by", proof["read_by"]),
        ("same token ids", _word(proof["same_token_ids"])),
        (
            "largest difference of logits",
            f"{largest}, of which {written} is not rounding (at most {tolerance})",
        ),
        ("equal first choices", f"{proof['same_first_choices']:.1%}"),
        ("same answers", _word(proof["same_answers"])),
        ("stops at the end of its turn", _word(proof["stops_at_end_of_turn"])),
        (
            "nearer to the trained model than the base model is",
            "" if nearer is None else f"{number(nearer)} times",
        ),
        ("compared", f"{count(proof['cases'], 'prompt')}, {count(proof['tokens'], 'token')}"),
    ]
    if build := proof.get("llama_cpp"):
        share = proof.get("llama_first_choices")
        rows += [
            ("also read by", build),
            ("same token ids there", _word(proof.get("llama_token_ids", False))),
            (
                "greedy answers of the trained model there",
                f"{proof.get('llama_answers', 0)} of {proof['cases']}",
            ),
            ("equal first choices of both readers", "" if share is None else f"{share:.1%}"),
        ]
    elif why := proof.get("llama_cpp_absent"):
        rows.append(("read by llama.cpp itself", f"no: {why}"))
    lines = _table("measure", [(name, text) for name, text in rows if text])
    return [
        *lines,
        *(["", *(f"- {why}" for why in proof["failures"])] if proof["failures"] else []),
    ]


def _table(what: str, rows: list[tuple[str, str]]) -> list[str]:
    lines = [f"| {what} | value |", "|---|---|"]
    for name, text in rows:
        escaped = text.replace("|", "\\|")
        lines.append(f"| {name} | {escaped} |")
    return lines


def _word(is_so: bool) -> str:
    return "yes" if is_so else "no"
