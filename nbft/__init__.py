"""nbft: fine-tune a language model from a notebook.

    import nbft
    nbft.Form()                                   # a form; its .config is the config object
    run = nbft.train(nbft.Config.load("config.yaml"))

Every name is imported when it is first used, so `import nbft` is quick and loads no torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbft.config import Config, settings
    from nbft.config.io import presets
    from nbft.data.doctor import doctor
    from nbft.data.examples import examples
    from nbft.data.lens import tokens
    from nbft.errors import ConfigError, DataError, ModelError, NbftError, Problem, RunError
    from nbft.evaluate.metrics import score
    from nbft.interop.about import help  # noqa: A004
    from nbft.interop.importer import import_file
    from nbft.launchers import race, submit, train, train_async
    from nbft.lesson import check_prediction
    from nbft.plan import Plan, make_plan, probe
    from nbft.plan.places import places
    from nbft.runs import Run, attach, list_runs
    from nbft.runs.ask import ask, release_model
    from nbft.runs.comparison import compare
    from nbft.runs.race import Race
    from nbft.runs.rate_search import find_learning_rate
    from nbft.runs.trying import try_rewards
    from nbft.tracking import trackers
    from nbft.widgets import Chart, Form, Lens, Monitor, inspect

# torch's threads wait for each other by spinning. Where other programs want the cores too (a
# browser, Jupyter, another run) each spins while the one it waits for is not let run: answering
# three prompts took 172 s so, and 8 s without. Not to spin at all costs a fifth of the speed of a
# free machine; a few microseconds of it cost nothing on a busy one. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# oneDNN keeps what it has made for each shape of a product, of which rows of many lengths have
# many: with its own limit of 1,024 a run of 40 steps held 4.2 GB, so 3.4, and was as fast.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

_MODULE_OF = {
    "Chart": "nbft.widgets",
    "Config": "nbft.config",
    "ConfigError": "nbft.errors",
    "DataError": "nbft.errors",
    "Form": "nbft.widgets",
    "Lens": "nbft.widgets",
    "ModelError": "nbft.errors",
    "Monitor": "nbft.widgets",
    "NbftError": "nbft.errors",
    "Plan": "nbft.plan",
    "Problem": "nbft.errors",
    "Race": "nbft.runs.race",
    "Run": "nbft.runs",
    "RunError": "nbft.errors",
    "ask": "nbft.runs.ask",
    "attach": "nbft.runs",
    "check_prediction": "nbft.lesson",
    "compare": "nbft.runs.comparison",
    "doctor": "nbft.data.doctor",
    "examples": "nbft.data.examples",
    "find_learning_rate": "nbft.runs.rate_search",
    "help": "nbft.interop.about",
    "import_file": "nbft.interop.importer",
    "inspect": "nbft.widgets",
    "list_runs": "nbft.runs",
    "make_plan": "nbft.plan",
    "places": "nbft.plan.places",
    "presets": "nbft.config",
    "probe": "nbft.plan",
    "race": "nbft.launchers",
    "release_model": "nbft.runs.ask",
    "score": "nbft.evaluate.metrics",
    "settings": "nbft.config",
    "submit": "nbft.launchers",
    "tokens": "nbft.data.lens",
    "trackers": "nbft.tracking",
    "train": "nbft.launchers",
    "train_async": "nbft.launchers",
    "try_rewards": "nbft.runs.trying",
}

__all__ = [
    "Chart",
    "Config",
    "ConfigError",
    "DataError",
    "Form",
    "Lens",
    "ModelError",
    "Monitor",
    "NbftError",
    "Plan",
    "Problem",
    "Race",
    "Run",
    "RunError",
    "__version__",
    "ask",
    "attach",
    "check_prediction",
    "compare",
    "doctor",
    "examples",
    "find_learning_rate",
    "help",
    "import_file",
    "inspect",
    "list_runs",
    "make_plan",
    "places",
    "presets",
    "probe",
    "race",
    "release_model",
    "score",
    "settings",
    "submit",
    "tokens",
    "trackers",
    "train",
    "train_async",
    "try_rewards",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("nbft")
    if name == "registry":
        return importlib.import_module("nbft.registry")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'nbft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
