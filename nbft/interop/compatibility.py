"""Every parameter that the five documents name: our setting, what it does here, and its proof.

Made from the tables that the importer uses. `python -m nbft.interop.compatibility` prints
docs/compatibility.md; `nbft compatibility` prints the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from nbft.interop.importer import DOCUMENTED, system
from nbft.interop.proofs import Proof, proofs
from nbft.interop.table import Entry, Status

MEANING = {
    "effect": "a test sees the difference that the value makes",
    "hardware": "handed to the real engine, tested as far as a CPU goes, and refused with a "
    "sentence where the hardware is absent",
    "planned": "settings, checks and imports are there; a value that needs the engine is refused "
    "with a sentence",
    "refused": "not done; the reason says what to use instead",
}


@dataclass(frozen=True)
class Row:
    """One parameter.

    Attributes:
        system: Name of its system.
        parameter: As its document calls it.
        setting: Ours, or "" where there is none.
        status: effect, hardware, refused or planned.
        test: The test that proves it, as pytest takes it.
        reason: Why not, or what it needs.
    """

    system: str
    parameter: str
    setting: str
    status: Status
    test: str
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the row as a line of text."""
        ours = self.setting or "-"
        reason = f"  {self.reason}" if self.reason else ""
        return f"{self.system:<11} {self.status:<8} {self.parameter} -> {ours}{reason}"


def rows(name: str | None = None) -> list[Row]:
    """Return the rows of a system, or of all five.

    Raises:
        ConfigError: There is no such system.
    """
    names = [system(name).name] if name else DOCUMENTED
    return [_row(one, entry) for one in names for entry in system(one).table if entry.is_documented]


def _row(name: str, entry: Entry) -> Row:
    parameter = entry.name or entry.path
    setting = entry.setting.replace("<split>", "train").replace("[0]", "[]")
    setting = setting.replace("data.validation.", "data.train.")
    proof = proofs().get(f"{name}:{parameter}") or proofs().get(setting) or Proof("")
    status: Status = entry.status or proof.status
    if status == "effect" and setting.startswith(("distributed.", "preference.")):
        status = "planned"
    return Row(name, parameter, entry.setting, status, proof.test, entry.reason or proof.reason)


def counts(found: Iterable[Row]) -> dict[str, int]:
    """Return how many rows have each status, all four named."""
    numbers = Counter(row.status for row in found)
    return {status: numbers[status] for status in ("effect", "hardware", "planned", "refused")}


def summary(found: list[Row]) -> str:
    """Say the counts in one sentence."""
    numbers = ", ".join(f"{number} {status}" for status, number in counts(found).items())
    return f"{len(found)} parameters: {numbers}."


def page() -> str:
    """Return docs/compatibility.md."""
    found = rows()
    lines = [
        "# Every parameter of the five systems",
        "",
        "Made by `python -m nbft.interop.compatibility` from the tables that the importer uses.",
        "Do not edit it. `nbft compatibility` prints the same.",
        "",
        *(f"- **{status}**: {meaning}." for status, meaning in MEANING.items()),
        "",
        "| system | parameters | effect | hardware | planned | refused |",
        "|---|---|---|---|---|---|",
    ]
    for name in DOCUMENTED:
        of_one = [row for row in found if row.system == name]
        numbers = " | ".join(str(number) for number in counts(of_one).values())
        lines.append(f"| {system(name).title} | {len(of_one)} | {numbers} |")
    numbers = " | ".join(str(number) for number in counts(found).values())
    lines += [f"| all | {len(found)} | {numbers} |", "", "## Refused, and why", ""]
    lines += [
        f"- {system(row.system).title} `{row.parameter}`: {row.reason}"
        for row in found
        if row.status == "refused"
    ]
    for name in DOCUMENTED:
        lines += ["", f"## {system(name).title}", ""]
        lines += ["| parameter | nbft | status | test | note |", "|---|---|---|---|---|"]
        for row in found:
            if row.system == name:
                cells = (
                    f"`{row.parameter}`",
                    f"`{row.setting}`" if row.setting else "",
                    row.status,
                )
                test = row.test.replace("tests/", "", 1)
                note = row.reason.replace("|", "\\|")
                lines.append(f"| {' | '.join(cells)} | {test} | {note} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
