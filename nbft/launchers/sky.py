"""SkyPilot, in an environment of its own: made on request, and asked as a process.

It cannot be installed beside nbft: with the present huggingface-hub, pip would take a version of
SkyPilot that is years old. Nothing here needs an account, and no key is read: whether a provider is
set up is told by whether its file exists.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nbft.errors import NbftError
from nbft.models.find import cache_folder
from nbft.plan.prices import PROVIDERS, RENTED, listed_at
from nbft.redaction import redact_text

REQUIREMENT = "skypilot[runpod,lambda,vast,kubernetes,ssh]>=0.14,<0.15"
"""Price lists, names of options and places of keys are those of these versions."""

_SECONDS = 300.0


class Place(NamedTuple):
    """Where SkyPilot can start machines.

    Attributes:
        title: Its name, for people.
        file: The file that SkyPilot 0.14 looks for.
        how: What to do for that file, in a sentence.
    """

    title: str
    file: str
    how: str

    @property
    def is_set_up(self) -> bool:
        """Whether the file exists; whether its key is valid only the provider knows."""
        return Path(self.file).expanduser().is_file()


PLACES = {
    "runpod": Place(
        "RunPod", "~/.runpod/config.toml", 'Write the lines “[default]” and “api_key = "…"” there.'
    ),
    "lambda": Place(
        "Lambda Labs", "~/.lambda_cloud/lambda_keys", "Write the line “api_key = …” there."
    ),
    "vast": Place(
        "Vast.ai", "~/.config/vastai/vast_api_key", "Write your key there, and nothing else."
    ),
    "kubernetes": Place("Kubernetes", "~/.kube/config", "Ask the cluster's administrator for it."),
    "ssh": Place("SSH hosts", "~/.sky/ssh_node_pools.yaml", "List your machines there."),
}
"""SkyPilot's name → the place. Source: `sky/clouds/*.py` of SkyPilot 0.14.1."""


def environment_folder() -> Path:
    """Return the folder of SkyPilot's environment, which need not exist."""
    return cache_folder() / "skypilot"


def sky_python() -> Path | None:
    """Return the Python of SkyPilot's environment; None before `set_up`."""
    folder = environment_folder()
    python = folder / "bin/python"
    return python if (folder / _MARK).is_file() and python.is_file() else None


_MARK = "nbft-complete"
"""A file that is written last, so that a cut-off installation is none."""


def set_up(say: Callable[[str], None]) -> str:
    """Make SkyPilot's environment anew, and return the version in it.

    Args:
        say: Called with what is being done.

    Raises:
        NbftError: It cannot be made; says why. Nothing is left behind.
    """
    if sys.platform == "win32":
        raise NbftError("SkyPilot needs Linux or macOS; on Windows, use WSL.")
    folder = environment_folder()
    say(f"Making {folder} …")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        venv.create(folder, with_pip=True)
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise NbftError(f"{folder}: cannot be made: {_last_line(str(error))}.") from None
    say("Installing SkyPilot, about 700 MB …")
    command = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", REQUIREMENT]
    done = subprocess.run(
        [*command, "--disable-pip-version-check"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise NbftError(f"SkyPilot cannot be installed: {_last_line(done.stderr)}")
    (folder / _MARK).touch()
    return version()


def version() -> str:
    """Return the version of SkyPilot in its environment; "" without one."""
    python = sky_python()
    found = python and next(
        python.parents[1].glob("lib/python*/site-packages/skypilot-*.dist-info"), None
    )
    return found.name.split("-")[1].removesuffix(".dist") if found else ""


def status() -> list[str]:
    """Return whether SkyPilot and each provider are set up, a sentence each. Uses no network."""
    found = version()
    lines = [
        f"SkyPilot {found} is in {environment_folder()}."
        if found
        else f"SkyPilot is not set up. Install it in an environment of its own ({environment_folder()}, "
        "about 700 MB): nbft cloud setup."
    ]
    for place in PLACES.values():
        if place.is_set_up:
            lines.append(f"{place.title}: {place.file} is there.")
        else:
            lines.append(f"{place.title}: not set up; there is no {place.file}. {place.how}")
    return lines


def update_prices() -> None:
    """Let SkyPilot download the price lists of the providers.

    Raises:
        NbftError: It is not set up, or they cannot be downloaded.
    """
    python = sky_python()
    if python is None:
        raise NbftError("SkyPilot is not set up. Install it with: nbft cloud setup.")
    began = time.time() - 1.0  # some file systems round the time
    try:
        done = subprocess.run(
            [str(python), "-c", _DOWNLOAD, *RENTED],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            env=sky_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NbftError(
            f"The price lists cannot be downloaded: {_last_line(str(error))}."
        ) from None
    late = [key for key in RENTED.values() if listed_at(key) < began]
    if done.returncode or late:
        titles = ", ".join(PROVIDERS[key].title for key in late or RENTED.values())
        why = _last_line(done.stdout + done.stderr)
        raise NbftError(f"The price lists of {titles} could not be downloaded: {why}")


_DOWNLOAD = """
import sys
import sky
from sky.catalog import common
for name in sys.argv[1:]:
    common.read_catalog(f"{name}/vms.csv", pull_frequency_hours=0)._load_df()
"""
"""`read_catalog` is what SkyPilot's own catalogues call; it is lazy until it is read. Where there is a
list already, it only warns if it cannot download another."""


def sky_environment() -> dict[str, str]:
    """Return the environment of SkyPilot's processes: nothing is reported to its makers."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH",)}
    return {**kept, "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}


_SPINNER = "<sky-payload>"
"""What begins the lines by which SkyPilot's processes tell each other what a spinner shows."""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in redact_text(text).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(_SPINNER)]
    return lines[-1] if lines else "it did not say why"
