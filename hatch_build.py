"""Build the front end while the package is built, if npm is there to build it.

The front end is the JupyterLab extension (`nbft/labextension/`) and the bundle of the live
chart (`nbft/widgets/static/`). Without npm nbft installs without both: everything works from
Python, and the chart says its curve in words.
"""

from pathlib import Path
from shutil import which
from typing import Any

from hatch_jupyter_builder import npm_builder
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LABEXTENSION = "nbft/labextension"
CHART = "nbft/widgets/static"


class FrontEndBuildHook(BuildHookInterface):
    """Runs npm in `extension/` and adds what it made to the wheel or the sdist."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the front end and name its files to hatchling.

        Args:
            version: "standard" or "editable".
            build_data: Hatchling's description of what is built; extended in place.

        Raises:
            subprocess.CalledProcessError: npm is there, but failed.
        """
        root = Path(self.root)
        carried = (root / "PKG-INFO").exists()  # an sdist brings the front end ready made
        if which("npm") and not carried:
            npm_builder(self.target_name, version, path="extension", build_cmd="build:prod")
        if not (root / LABEXTENSION / "package.json").exists():
            self.app.display_warning(
                "nbft is installed without its JupyterLab extension and live chart, "
                "because npm (Node.js) was not found; install Node.js and run this again."
            )
            return

        build_data["artifacts"].append(f"{CHART}/")
        if self.target_name == "sdist":
            build_data["artifacts"].append(f"{LABEXTENSION}/")
        else:
            installed = "share/jupyter/labextensions/nbft"
            build_data["shared_data"][LABEXTENSION] = installed
            build_data["shared_data"]["extension/install.json"] = f"{installed}/install.json"
