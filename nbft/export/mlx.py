"""MLX, the format of Apple's machines: converted by mlx_lm, and read back by it.

Both run as processes of their own. The one that reads calls this module's own `main`.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from nbft.errors import RunError
from nbft.export.format import BYTES, Options, Say
from nbft.export.merged import Merged, take_rounded
from nbft.export.programs import run_program
from nbft.export.proof import ANSWER_TOKENS, COMPARED_TOKENS, Case, Observed

if TYPE_CHECKING:
    from nbft.export.trained import Trained
    from nbft.runs.folder import Run

_INSTALL = 'pip install mlx-lm; on Linux: pip install mlx-lm "mlx[cpu]"'

_GROUP = 64
"""Weights that share a scale and an offset."""

_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "MLX_ENABLE_TF32": "0", "TOKENIZERS_PARALLELISM": "false"}
_WITHOUT_COMPILER = {"MLX_DISABLE_COMPILE": "1"}
"""Off a Mac, MLX compiles with a C++ compiler, which may be missing."""


class Mlx(Merged):
    """A folder for mlx_lm and programs on it."""

    title = "MLX model"
    name = "MLX"
    about = "A folder for mlx_lm and LM Studio on a Mac with Apple silicon."
    options = ("dtype",)
    dtypes = (*Merged.dtypes, "8bit", "6bit", "4bit")

    def obstacle(self, run: Run) -> str:
        """Return why mlx_lm cannot write it here, or the adapter cannot be merged."""
        if find_spec("mlx_lm") is None:
            return f'mlx_lm, which writes it, is not installed. Install it ({_INSTALL}), or use to="merged".'
        return super().obstacle(run)

    def check(self, run: Run, options: Options) -> None:
        """Check that mlx_lm can be loaded: on Linux it needs a part of MLX that is installed apart."""
        if why := _python(["-c", "import mlx_lm"], "Loading mlx_lm …", lambda _: None):
            raise RunError(f"mlx_lm cannot be loaded ({why}). Install it anew ({_INSTALL}).")

    def passing_bytes(self, parameters: int, dtype: str) -> int:
        """Return the bytes of the merged model that mlx_lm reads."""
        return int(parameters * BYTES[_stored(dtype)])

    def write(self, trained: Trained, folder: Path, dtype: str, options: Options, say: Say) -> None:
        """Save the merged model, have it converted, and delete it."""
        whole, converted = folder / "merged", folder / "mlx"
        super().write(trained, whole, _stored(dtype), options, say)
        command = ["-m", "mlx_lm", "convert", "--hf-path", str(whole), "--mlx-path", str(converted)]
        command += ["--dtype", _stored(dtype)]
        if bits := _bits(dtype):
            command += ["--quantize", "--q-bits", str(bits), "--q-group-size", str(_GROUP)]
        if trained.run.config.model.trust_remote_code:
            command += ["--trust-remote-code"]
        if why := _python(command, f"Converting to {dtype} with mlx_lm …", say):
            raise RunError(f'mlx_lm could not convert the model ({why}). Use to="merged".')
        shutil.rmtree(whole)
        for file in converted.iterdir():
            file.rename(folder / file.name)
        converted.rmdir()

    def round(self, trained: Trained, dtype: str, folder: Path) -> Any:
        """Give the model the weights that the export has quantised."""
        return _as_quantized(trained.model, folder) if _bits(dtype) else trained.model

    def observe(
        self, folder: Path, trained: Trained, cases: Sequence[Case], expected: Observed, say: Say
    ) -> tuple[Observed, Any]:
        """Let mlx_lm load the export and answer, in a process of its own."""
        import numpy as np
        import torch

        with tempfile.TemporaryDirectory() as place:
            asked, answered, logits = (
                Path(place) / name for name in ("asked", "answered", "l.npz")
            )
            given = {
                "dtype": trained.dtype,
                "trust_remote_code": trained.run.config.model.trust_remote_code,
                "cases": [[case.name, case.text, case.messages] for case in cases],
                "prompts": expected.prompts,
                "rows": expected.rows,
            }
            asked.write_text(json.dumps(given), encoding="utf-8")
            command = ["-m", __name__, *map(str, (folder, asked, answered, logits))]
            if why := _python(command, "Reading it back with mlx_lm …", say):
                raise RunError(f"The export cannot be read back by mlx_lm ({why}).")
            found = json.loads(answered.read_text(encoding="utf-8"))
            with np.load(logits) as arrays:
                values = [torch.from_numpy(arrays[str(n)]) for n in range(len(expected.rows))]
        ended = [len(answer) < ANSWER_TOKENS for answer in found["answers"]]
        ends = set(found["ends"])
        seen = Observed(found["prompts"], found["answers"], ended, values, expected.rows, ends)
        return seen, None

    def read_by(self) -> str:
        """Return what reads it."""
        return f"mlx_lm {version('mlx-lm')} with MLX {version('mlx')}"

    def usage(self, folder: PurePath, trained: Trained) -> str:
        """Return the commands that chat with it and serve it."""
        return f'```bash\nmlx_lm.chat --model "{folder}"\nmlx_lm.server --model "{folder}"\n```'


def _bits(dtype: str) -> int:
    """Return the bits of a quantised type; 0 for another."""
    return int(dtype.removesuffix("bit")) if dtype.endswith("bit") else 0


def _stored(dtype: str) -> str:
    """Return the number type of what is not quantised."""
    return "bfloat16" if _bits(dtype) else dtype


def _python(command: Sequence[str], sentence: str, say: Say) -> str:
    """Run a module with this interpreter; return why it failed, "" if it did not."""
    environment = os.environ | _ENVIRONMENT
    if sys.platform != "darwin":
        environment |= _WITHOUT_COMPILER
    return run_program([sys.executable, *command], lambda _: sentence, say, environment)


def _as_quantized(model: Any, folder: Path) -> Any:
    """Give a model the weights of the folder that are quantised, in place.

    Raises:
        RunError: They have other names there.
    """
    import torch
    from safetensors import safe_open

    files: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        reader = safe_open(file, "pt")
        files |= dict.fromkeys(reader.keys(), reader)
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization"]
    known = {name.removesuffix(".weight") for name, _ in model.named_parameters()}
    scaled = (name.removesuffix(".scales") for name in files if name.endswith(".scales"))
    if others := sorted(stem for stem in scaled if stem not in known):
        raise RunError(
            f"mlx_lm keeps the weights of this model in another order ({others[0]}), so that their "
            "rounding cannot be checked. Use dtype=bfloat16."
        )
    with torch.no_grad():
        for name, weights in model.named_parameters():
            stem = name.removesuffix(".weight")
            if f"{stem}.scales" in files:
                packed, scales, offsets = (
                    files[f"{stem}.{kind}"].get_tensor(f"{stem}.{kind}")
                    for kind in ("weight", "scales", "biases")
                )
                bits = about.get(stem, about)["bits"]
                take_rounded(
                    weights, unpacked(packed, scales, offsets, bits).reshape(weights.shape)
                )
    return model


def unpacked(packed: Any, scales: Any, offsets: Any, bits: int) -> Any:
    """Return the values of a matrix that MLX has quantised, [m, n] in float32.

    Args:
        packed: [m, n·bits/32] in uint32; numbers of `bits` bits follow each other from the lowest bit.
        scales: [m, n/g], one for g weights,
        offsets: as many.
        bits: Bits of a number.
    """
    import numpy as np
    import torch

    rows = packed.shape[0]
    single = np.unpackbits(packed.view(torch.uint8).numpy(), bitorder="little").reshape(-1, bits)
    numbers = (single @ (1 << np.arange(bits))).reshape(rows, scales.shape[1], -1)
    values = torch.from_numpy(numbers.astype(np.float32))
    return (values * scales.float()[..., None] + offsets.float()[..., None]).reshape(rows, -1)


def main(folder: str, asked: str, answered: str, logits: str) -> None:
    """Read an export with mlx_lm, and write what it makes of the cases.

    Args:
        folder: The export.
        asked: File with the cases, the prompts and rows of the trained model, and the number type to
            compute in.
        answered: File for the token ids.
        logits: File for the logits, as a NumPy archive.
    """
    import numpy as np

    core, mlx_lm, generate = (
        importlib.import_module(name) for name in ("mlx.core", "mlx_lm", "mlx_lm.generate")
    )
    given = json.loads(Path(asked).read_text(encoding="utf-8"))
    trust = given["trust_remote_code"]
    model, tokenizer = mlx_lm.load(
        folder, tokenizer_config={"trust_remote_code": trust}, lazy=True, trust_remote_code=trust
    )
    model.set_dtype(getattr(core, given["dtype"]))

    def answer(ids: list[int]) -> list[int]:
        written: list[int] = []
        for token, _ in generate.generate_step(core.array(ids), model, max_tokens=ANSWER_TOKENS):
            if token in tokenizer.eos_token_ids:
                break
            written.append(int(token))
        return written

    def logits_of(row: list[int]) -> Any:
        shown = model(core.array([row]))[0, -COMPARED_TOKENS:]
        return np.array(shown.astype(core.float32))

    prompts = []
    for case in (Case(*values) for values in given["cases"]):
        text, adds = case.given(tokenizer)
        prompts.append(list(tokenizer.encode(text, add_special_tokens=adds)))
    np.savez(logits, **{str(n): logits_of(row) for n, row in enumerate(given["rows"])})
    found = {
        "prompts": prompts,
        "answers": [answer(ids) for ids in given["prompts"]],
        "ends": sorted(tokenizer.eos_token_ids),
    }
    Path(answered).write_text(json.dumps(found), encoding="utf-8")


FORMAT = Mlx()

if __name__ == "__main__":
    main(*sys.argv[1:])
