"""SkyPilot's environment, with a program of our own in its place."""

import http.server
import os
import subprocess
import sys
import threading

import pytest
from typer.testing import CliRunner

from nbft.cli import app
from nbft.errors import NbftError
from nbft.launchers import sky
from nbft.plan.prices import RENTED, price_list

_RUN = subprocess.run
REAL = sky.sky_python()
FAILS = "import sys; sys.exit('first\\nERROR: No matching distribution found for skypilot')"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Have a home folder and a cache of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SKY_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def played(monkeypatch):
    """Return a function that says which program plays pip, and Python with SkyPilot."""

    def play(code):
        asked = []

        def instead(command, **options):
            asked.append((command, options))
            return _RUN([sys.executable, "-c", code, *command[3:]], **options)

        def create(folder, with_pip):
            assert with_pip
            (folder / "bin").mkdir(parents=True)
            (folder / "bin/python").touch()
            (folder / "lib/python3.11/site-packages/skypilot-0.14.1.dist-info").mkdir(parents=True)

        monkeypatch.setattr(sky.venv, "create", create)
        monkeypatch.setattr(sky.subprocess, "run", instead)
        return asked

    return play


def cli(*arguments):
    return CliRunner().invoke(app, ["cloud", *arguments])


def test_the_status_before_anything_is_set_up(home):
    shown = cli()
    assert shown.exit_code == 0
    assert shown.output == (
        f"SkyPilot is not set up. Install it in an environment of its own ({home}/cache/skypilot, "
        "about 700 MB): nbft cloud setup.\n"
        "RunPod: not set up; there is no ~/.runpod/config.toml. Write the lines "
        '“[default]” and “api_key = "…"” there.\n'
        "Lambda Labs: not set up; there is no ~/.lambda_cloud/lambda_keys. Write the line “api_key = "
        "…” there.\n"
        "Vast.ai: not set up; there is no ~/.config/vastai/vast_api_key. Write your key there, and "
        "nothing else.\n"
        "Kubernetes: not set up; there is no ~/.kube/config. Ask the cluster's administrator for it.\n"
        "SSH hosts: not set up; there is no ~/.sky/ssh_node_pools.yaml. List your machines there.\n"
    )


def test_the_status_reads_no_key(home, played):
    played("")
    assert cli("setup").output.endswith(
        "SkyPilot 0.14.1 is ready. Nothing is reported to its makers.\n"
    )
    key = home / ".runpod/config.toml"
    key.parent.mkdir()
    key.write_text("[default]\napi_key = 'secret-of-mine'\n")
    key.chmod(0)
    shown = cli().output
    assert f"SkyPilot 0.14.1 is in {home}/cache/skypilot." in shown
    assert "RunPod: ~/.runpod/config.toml is there." in shown
    assert "secret" not in shown


def test_an_installation_that_fails_leaves_nothing(home, played):
    asked = played(FAILS)
    with pytest.raises(NbftError) as raised:
        sky.set_up(lambda _: None)
    assert str(raised.value) == (
        "SkyPilot cannot be installed: ERROR: No matching distribution found for skypilot"
    )
    assert not (home / "cache/skypilot").exists()
    assert sky.REQUIREMENT in asked[0][0]


def test_an_environment_that_cannot_be_made(home):
    home.joinpath("cache").touch()
    with pytest.raises(NbftError, match=r"skypilot: cannot be made: .*cache"):
        sky.set_up(lambda _: None)


def test_windows_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(NbftError, match="needs Linux or macOS"):
        sky.set_up(lambda _: None)


def test_an_installation_that_was_cut_off_is_none(home, played):
    played("")
    sky.set_up(lambda _: None)
    assert sky.sky_python()
    (home / "cache/skypilot/nbft-complete").unlink()
    assert (sky.sky_python(), sky.version()) == (None, "")


def test_prices_need_skypilot():
    shown = cli("prices")
    assert shown.exit_code == 2
    assert shown.output == "SkyPilot is not set up. Install it with: nbft cloud setup.\n"


def test_prices_are_downloaded_and_nothing_is_reported(home, played):
    played("")
    sky.set_up(lambda _: None)
    folder = home / ".sky/catalogs/v8"
    asked = played(
        "import pathlib, sys\n"
        "for name in sys.argv[1:]:\n"
        f"    path = pathlib.Path({str(folder)!r}, name, 'vms.csv')\n"
        "    path.parent.mkdir(parents=True)\n"
        "    path.write_text('AcceleratorName,AcceleratorCount,Price\\nL4,1,0.4\\n')\n"
    )
    shown = cli("prices").output
    assert shown.startswith("Prices of RunPod: SkyPilot's list of ")
    ((command, options),) = asked
    assert command[3:] == [*RENTED]
    assert options["env"]["SKYPILOT_DISABLE_USAGE_COLLECTION"] == "1"


def test_an_update_that_only_warns_is_a_failure(home, played):
    played("")
    sky.set_up(lambda _: None)
    old = home / ".sky/catalogs/v8/runpod/vms.csv"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (0, 0))
    played("print('Failed to fetch RunPod catalog. Using cached catalog files.\\n<sky-payload>…')")
    with pytest.raises(NbftError) as raised:
        sky.update_prices()
    assert str(raised.value) == (
        "The price lists of RunPod, Lambda Labs, Vast.ai could not be downloaded: Failed to fetch "
        "RunPod catalog. Using cached catalog files."
    )


def test_a_provider_that_is_unknown(tmp_path):
    shown = cli("offers", str(tmp_path / "config.yaml"), "--on", "azure")
    assert shown.exit_code == 2
    assert shown.output == "--on='azure': is not one of runpod, lambda, vast.\n"


def test_offers_without_any_list_say_where_the_ranges_are_from(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("data: {dataset_name: alpaca}\n")
    shown = cli("offers", str(config), "--on", "vast")
    assert shown.exit_code == 0
    assert shown.output.startswith(
        "There is no price list of Vast.ai on this machine; PEFT Studio's"
    )


@pytest.mark.skipif(REAL is None, reason="nbft cloud setup was not run")
def test_the_real_skypilot_downloads_from_a_server_of_our_own(home):
    lines = "AcceleratorName,AcceleratorCount,Price\nL4,1,0.4\n"
    asked = []

    class Lists(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(lines.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Lists) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{server.server_port}"
        code = f"from sky.skylet import constants\nconstants.HOSTED_CATALOG_DIR_URL = {there!r}\n"
        command = [str(REAL), "-c", code + sky._DOWNLOAD, "runpod"]
        done = _RUN(command, capture_output=True, text=True, check=False, env=sky.sky_environment())
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert asked == ["/v8/runpod/vms.csv"]
    assert (home / ".sky/catalogs/v8/.meta/runpod/vms.csv.md5").is_file()
    assert [price.usd_per_hour for price in price_list("runpod").prices] == [0.4]
