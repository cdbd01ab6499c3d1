"""The merged model: the adapter in the weights of the base model, as safetensors."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from nbft.errors import RunError
from nbft.export.format import Format, Options, Say
from nbft.export.trained import merge
from nbft.models.peft_types import merge_obstacle

if TYPE_CHECKING:
    from nbft.export.trained import Trained
    from nbft.runs.folder import Run

_MOST_ROUNDED = 0.5
"""Error of a quantised tensor, as a share of the tensor, above which it is another one: rounding normal
weights to q2_k loses 0.3, and a tensor that has nothing to do with it differs by 1.4."""


class Merged(Format):
    """A folder that transformers, vLLM and others load without PEFT."""

    title = "merged model (safetensors)"
    name = "merged model"
    about = "A folder that transformers, vLLM and others load without PEFT."
    dtypes: ClassVar[tuple[str, ...]] = ("bfloat16", "float16", "float32")
    options: ClassVar[tuple[str, ...]] = ("dtype", "max_shard_size")

    def obstacle(self, run: Run) -> str:
        """Return why the adapter cannot become part of the weights."""
        if why := merge_obstacle(run.config):
            return f'It has no weights to merge into: {why}. Use to="adapter", which PEFT loads on the base model.'
        return ""

    def model_obstacle(self, trained: Trained) -> str:
        """Return why the loaded model cannot be saved so."""
        if getattr(trained.model.config, "is_encoder_decoder", False):
            return "Encoder-decoder models are not exported yet; load it with run.load_model()."
        return ""

    def prepare(self, trained: Trained) -> Any:
        """Merge the adapter into the weights."""
        return merge(trained)

    def round(self, trained: Trained, dtype: str, folder: Path) -> Any:
        """Return the model, whose weights saving has rounded."""
        return trained.model

    def write(self, trained: Trained, folder: Path, dtype: str, options: Options, say: Say) -> None:
        """Save the merged model and the tokenizer, with its chat template."""
        import torch

        # Positions are buffers in float32, which whoever loads the model computes anew.
        buffers = {name: one.clone() for name, one in trained.model.named_buffers()}
        model = trained.model.to(getattr(torch, dtype))
        largest = max(float(p.detach().abs().max()) for p in model.parameters())
        if largest == float("inf"):
            raise RunError(f"dtype={dtype}: some weights are too large for it. Use bfloat16.")
        model.save_pretrained(folder, max_shard_size=options.max_shard_size)
        _tell_older_readers(folder / "config.json")
        trained.tokenizer.save_pretrained(folder)
        model.to(getattr(torch, trained.dtype))
        for name, one in model.named_buffers():
            one.data = buffers[name]

    def read(self, folder: Path, trained: Trained) -> tuple[Any, Any]:
        """Load the folder as anybody would, with transformers' Auto classes."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        trust = trained.run.config.model.trust_remote_code
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, trained.dtype), trust_remote_code=trust
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        return model.to(trained.device).eval(), tokenizer

    def usage(self, folder: PurePath, trained: Trained) -> str:
        """Return the lines that load it."""
        return (
            "```python\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{folder}", dtype="auto")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{folder}")\n'
            "```"
        )


def take_rounded(weights: Any, rounded: Any) -> None:
    """Give a tensor the values that another program has rounded it to, in place.

    Values that are further away than rounding explains are not taken, so that the proof sees the
    difference.

    Args:
        weights: The tensor, in float32.
        rounded: Its values in the export, of the same shape.
    """
    rounded = rounded.to(weights)
    if (rounded - weights).norm() <= _MOST_ROUNDED * weights.norm():
        weights.copy_(rounded)


def _tell_older_readers(file: Path) -> None:
    """Repeat the rotary settings where transformers 4, mlx_lm and others look for them.

    transformers 5 writes `rope_parameters` alone. Who does not know them takes a rotary base of 10,000
    without a word, and with SmolLM2, whose base is 100,000, is another model.
    """
    about = json.loads(file.read_text(encoding="utf-8"))
    rotary = about.get("rope_parameters") or {}
    if "rope_theta" not in rotary:  # none, or several, one for each type of layer
        return
    scaling = {key: value for key, value in rotary.items() if key != "rope_theta"}
    about["rope_theta"] = rotary["rope_theta"]
    if scaling.get("rope_type", "default") != "default":
        about["rope_scaling"] = scaling
    file.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")


FORMAT = Merged()
