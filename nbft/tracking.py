"""Experiment trackers as they are on this machine: installed or not, and logged in or not.

No tracker is imported and no address is asked: what is known comes from the installed packages, the
environment variables and the files in which each tracker documents its login. A key is looked for and
never kept. Called by `nbft.decisions`, the form and the command line.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import netrc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload
from urllib.parse import SplitResult, parse_qs, urlsplit

from nbft.hardware import Choice
from nbft.presented import Presented
from nbft.reading import read_bytes
from nbft.redaction import redact_text


@dataclass(frozen=True)
class Tracker:
    """What is the same on every machine.

    Attributes:
        name: As tracking.report_to names it.
        title: As its makers do.
        package: What pip installs, and what its version is that of.
        module: The module that has to be there.
        ignores: Which of project, run name and tags it has no place for.
    """

    name: str
    title: str
    package: str
    module: str
    ignores: tuple[str, ...] = ()


TRACKERS = {
    tracker.name: tracker
    for tracker in (
        Tracker("tensorboard", "TensorBoard", "tensorboard", "tensorboard", ("project", "tags")),
        Tracker("wandb", "Weights & Biases", "wandb", "wandb"),
        Tracker("comet_ml", "Comet", "comet-ml", "comet_ml"),
        Tracker("mlflow", "MLflow", "mlflow", "mlflow"),
        Tracker("trackio", "Trackio", "trackio", "trackio", ("tags",)),
        Tracker("phoenix", "Arize Phoenix", "arize-phoenix-otel", "phoenix.otel"),
    )
}
"""Every tracker that tracking.report_to takes, by its name there."""


@dataclass(frozen=True)
class TrackerState:
    """A tracker on this machine.

    Attributes:
        tracker: Which one.
        version: Of its package; None if it is not installed, "" if the version is unknown.
        use: online (sent to a server), local or offline (written to a disk) or off, and why.
    """

    tracker: Tracker
    version: str | None
    use: Choice

    @property
    def is_installed(self) -> bool:
        """Whether a run can use it."""
        return self.version is not None

    @property
    def sentence(self) -> str:
        """What a run that reports to it would do, or how to install it."""
        if not self.is_installed:
            return f"Not installed: {install_line([self.tracker.name])}"
        version = f" {self.version}" if self.version else ""
        ignored = " or ".join(self.tracker.ignores)
        ignores = f" It has no place for {ignored}." if ignored else ""
        return f"Installed{version}, {self.use.value}: {self.use.reason}.{ignores}"


class TrackerTable(Presented, Sequence[TrackerState]):
    """The trackers on this machine, shown as a table."""

    def __init__(self, states: Iterable[TrackerState]) -> None:
        self._states = list(states)

    def __len__(self) -> int:
        return len(self._states)

    @overload
    def __getitem__(self, number: int) -> TrackerState: ...
    @overload
    def __getitem__(self, number: slice) -> list[TrackerState]: ...
    def __getitem__(self, number: int | slice) -> TrackerState | list[TrackerState]:
        return self._states[number]


def trackers() -> TrackerTable:
    """Return every tracker with its state: installed, logged in, and where a run would be."""
    return TrackerTable(map(state_of, TRACKERS))


def state_of(name: str, logging_dir: str | None = None) -> TrackerState:
    """Return the state of a tracker.

    Args:
        name: As tracking.report_to names it.
        logging_dir: The setting logging.logging_dir.
    """
    tracker = TRACKERS[name]
    return TrackerState(tracker, version_of(name), use_of(name, logging_dir))


def install_line(names: Iterable[str]) -> str:
    """Return the command that installs trackers.

    >>> install_line(["wandb", "comet_ml"])
    'pip install wandb comet-ml'
    """
    return f"pip install {' '.join(TRACKERS[name].package for name in names)}"


def version_of(name: str) -> str | None:
    """Return the version of a tracker: None if it is not installed, "" if that is unknown."""
    tracker = TRACKERS[name]
    if not _is_there(tracker.module):
        return None
    try:
        return importlib.metadata.version(tracker.package)
    except importlib.metadata.PackageNotFoundError:  # such as mlflow-skinny
        return ""


def _is_there(module: str) -> bool:
    """Whether a module can be imported, without importing its package."""
    package, _, inner = module.partition(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return False
    if spec is None or not inner:
        return spec is not None
    folders = spec.submodule_search_locations or ()
    return any(Path(folder, inner).is_dir() for folder in folders)


def use_of(name: str, logging_dir: str | None = None) -> Choice:
    """Return how a run would use a tracker, and why; arguments as of `state_of`.

    Without a login it is offline or local, so that nothing asks for a key while a run waits.
    """
    if name == "tensorboard":
        folder = logging_dir or os.environ.get("TENSORBOARD_LOGGING_DIR")
        return Choice("local", f"written to {folder or 'the folder of the run'}")
    return _USES[name]()


def changed_variables(uses: Mapping[str, Choice]) -> dict[str, str | None]:
    """Return the environment variables that keep trackers to their use; None unsets one.

    >>> changed_variables({"wandb": Choice("offline", "no login was found")})
    {'WANDB_MODE': 'offline'}
    """
    values: dict[str, str | None] = {}
    for name, use in uses.items():
        values |= _CHANGES.get((name, use.value), {})
    return values


_CHANGES: dict[tuple[str, str], dict[str, str | None]] = {
    ("wandb", "offline"): {"WANDB_MODE": "offline"},
    ("comet_ml", "offline"): {"COMET_START_ONLINE": "0"},
    # Without a login Trackio asks for one before it makes a Space.
    ("trackio", "local"): {"TRACKIO_SPACE_ID": None, "TRACKIO_SERVER_URL": None},
}

_NO_LOGIN = "no login was found"


def _wandb() -> Choice:
    """W&B: the login is in a variable, in netrc or in its own files (`wandb.sdk.lib.wbauth`)."""
    folder = Path(os.environ.get("WANDB_DIR") or ".")
    folder /= ".wandb" if _is_folder(folder / ".wandb") else "wandb"
    config = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb")
    files = (config / "settings", folder / "settings")
    saved: dict[str, str] = {}
    for file in files:  # the later one counts
        saved |= _section(file, "default")
    mode, place = os.environ.get("WANDB_MODE"), "WANDB_MODE is"
    if not mode and (mode := saved.get("mode")):
        place = "its settings file says"
    if mode == "disabled":
        return Choice("off", f"{place} disabled")
    sync = f"written to the folder {folder}, and “wandb sync” sends it later"
    if mode in ("offline", "dryrun"):
        return Choice("offline", f"{place} {mode}; {sync}")
    server = os.environ.get("WANDB_BASE_URL") or saved.get("base_url") or "https://api.wandb.ai"
    login = _first_set("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE") or _netrc_of(server)
    if not login and saved.get("api_key"):
        login = "its settings file"
    if not login:
        return Choice("offline", f"{_NO_LOGIN}; {sync}")
    return Choice("online", f"sent to {_host(server)}; the login is in {login}")


def _comet() -> Choice:
    """Comet: a variable, `.env`, or a `.comet.config` (`comet_ml.config`); the first one counts."""
    given = Path(os.environ.get("COMET_INI") or os.environ.get("COMET_CONFIG") or ".comet.config")
    files = (given / ".comet.config" if _is_folder(given) else given, *_COMET_FILES)
    sources = {
        ".env": {k.removeprefix("COMET_").lower(): v for k, v in _variables(_text(Path(".env")))}
    }
    sources |= {str(file): _section(file, "comet") for file in files}

    def saved(name: str) -> tuple[str, str]:
        """Return a value and its file."""
        found = ((values[name], file) for file, values in sources.items() if values.get(name))
        return next(found, ("", ""))

    folder = os.environ.get("COMET_OFFLINE_DIRECTORY") or saved("offline_directory")[0]
    sync = f"written to the folder {folder or '.cometml-runs'}, and “comet upload” sends it later"
    if os.environ.get("COMET_START_ONLINE", "").lower() in _OFF:
        return Choice("offline", f"COMET_START_ONLINE is off; {sync}")
    login = _first_set("COMET_API_KEY") or saved("api_key")[1]
    if not login:
        return Choice("offline", f"{_NO_LOGIN}; {sync}")
    server = os.environ.get("COMET_URL_OVERRIDE") or saved("url_override")[0]
    return Choice(
        "online", f"sent to {_host(server or 'https://www.comet.com')}; the login is in {login}"
    )


def _mlflow() -> Choice:
    """MLflow needs no login: its address decides."""
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        return Choice("local", "written to mlflow.db or mlruns in this folder")
    if _split(address).scheme not in ("http", "https", "databricks"):
        return Choice("local", f"written to {redact_text(address.partition('?')[0])}")
    login = _first_set("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME")
    return Choice(
        "online", f"sent to {_host(address)}{f'; the login is in {login}' if login else ''}"
    )


def _trackio() -> Choice:
    """Trackio: local, or a Space with Hugging Face's login, or a server with a token for writing."""
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    folder = os.environ.get("TRACKIO_DIR") or Path(home, "trackio")
    written = f"written to {folder}, and “trackio show” opens it"
    if space := os.environ.get("TRACKIO_SPACE_ID"):
        token = Path(os.environ.get("HF_TOKEN_PATH") or Path(home, "token"))
        login = _first_set("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
        if not login and _has_text(token):
            login = str(token)
        if login:
            return Choice("online", f"sent to the Space {space}; the login is in {login}")
        return Choice("local", f"{_NO_LOGIN} for the Space {space}; {written}")
    if server := os.environ.get("TRACKIO_SERVER_URL"):
        is_given = "write_token" in parse_qs(_split(server).query)
        if is_given or os.environ.get("TRACKIO_WRITE_TOKEN"):
            return Choice("online", f"sent to {_host(server)}; the login is its write token")
        return Choice("local", f"{_host(server)} needs TRACKIO_WRITE_TOKEN; {written}")
    return Choice("local", written)


def _phoenix() -> Choice:
    """Phoenix has no offline mode: what no server takes is lost, and the run goes on."""
    server, login = phoenix_address(), _phoenix_value(*_PHOENIX_LOGINS)[1]
    if not server:
        return Choice("online", "sent to localhost:6006, where a Phoenix server has to run")
    if login:
        return Choice("online", f"sent to {_host(server)}; the login is in {login}")
    is_hosted = (_split(server).hostname or "").endswith("arize.com")
    needs = ", which takes nothing without PHOENIX_API_KEY" if is_hosted else "; without a login"
    return Choice("online", f"sent to {_host(server)}{needs}")


def phoenix_address() -> str:
    """Return the address to which Phoenix's package sends; "" for a server on this machine."""
    return _phoenix_value("PHOENIX_COLLECTOR_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")[0]


_PHOENIX_LOGINS = ("PHOENIX_API_KEY", "PHOENIX_CLIENT_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")


def _phoenix_value(*names: str) -> tuple[str, str]:
    """Return a value and where it is: a variable, or the nearest `.env.phoenix` upwards."""
    if name := _first_set(*names):
        return os.environ[name], name
    if os.environ.get("PHOENIX_DISCOVER_CONFIG", "").strip().lower() in _OFF:
        return "", ""
    try:
        here = Path.cwd()
    except OSError:  # it was removed
        return "", ""
    files = (folder / ".env.phoenix" for folder in (here, *here.parents))
    file, text = next(((file, text) for file in files if (text := _text(file))), (here, ""))
    values = dict(_variables(text))
    return next(((values[name], str(file)) for name in names if values.get(name)), ("", ""))


_OFF = ("0", "false", "no", "off")
_COMET_FILES = (
    Path(".comet.config"),
    Path("/content/drive/MyDrive/.comet.config"),
    Path("~/.comet.config"),
)
_MOST_BYTES = 2**16

_USES: dict[str, Callable[[], Choice]] = {
    "wandb": _wandb,
    "comet_ml": _comet,
    "mlflow": _mlflow,
    "trackio": _trackio,
    "phoenix": _phoenix,
}


def _first_set(*names: str) -> str:
    """Return the name of the first variable that is set; "" if none is."""
    return next((name for name in names if os.environ.get(name)), "")


def _netrc_of(server: str) -> str:
    """Return the netrc file that has a login for a server; "" if none has."""
    given = os.environ.get("NETRC")
    for file in [Path(given)] if given else [Path("~/.netrc"), Path("~/_netrc")]:
        try:
            entry = netrc.netrc(file.expanduser()).authenticators(_split(server).netloc)
        except (OSError, netrc.NetrcParseError, ValueError, RuntimeError):
            continue
        if entry and entry[2]:
            return str(file)
    return ""


def _section(file: Path, section: str) -> dict[str, str]:
    """Return a section of an INI file; {} if there is none that can be read."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(_text(file))
        return dict(parser.items(section))
    except configparser.Error:
        return {}


def _variables(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values in the text of a file of variables, such as `.env`."""
    for line in text.splitlines():
        name, mark, value = line.strip().removeprefix("export ").partition("=")
        if mark and not name.startswith("#"):
            yield name.strip(), value.strip().strip("'\"")


def _text(file: Path) -> str:
    """Return the text of a small file; "" if there is none that can be read."""
    try:
        return read_bytes(file.expanduser(), _MOST_BYTES).decode()
    except (OSError, ValueError, RuntimeError):
        return ""


def _is_folder(path: Path) -> bool:
    try:
        return path.expanduser().is_dir()
    except (OSError, RuntimeError):
        return False


def _has_text(file: Path) -> bool:
    try:
        return file.expanduser().stat().st_size > 0
    except (OSError, RuntimeError):
        return False


def _split(address: str) -> SplitResult:
    """Return the parts of an address; none of one that is no address."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _host(address: str) -> str:
    """Return the host of an address, without what else may be secret in it.

    >>> _host("https://me:key@host:5000/x?write_token=abc"), _host("databricks")
    ('host:5000', 'databricks')
    """
    return _split(address).netloc.rpartition("@")[2] or redact_text(address.partition("?")[0])
