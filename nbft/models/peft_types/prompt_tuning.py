"""Prompt tuning: trained vectors in front of each row, instead of changes to the layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbft.config import Config
from nbft.config.peft import Peft
from nbft.errors import Problem
from nbft.models.peft_types.peft_type import PeftType


class PromptTuning(PeftType):
    """Virtual tokens, whose embeddings are trained."""

    name = "prompt_tuning"
    title = "prompt tuning"
    config_class = "PromptTuningConfig"
    settings = frozenset({"num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text"})
    adapts = ""
    can_merge = False
    changes_rows = True
    is_file_exact = False  # PEFT's load_adapter makes new virtual tokens

    def title_of(self, config: Config) -> str:
        """Return its name, which is the same on a quantised model."""
        return "Prompt tuning"

    def arguments(self, config: Config, total_steps: int | None = None) -> dict[str, Any]:
        """Return the arguments of PEFT's PromptTuningConfig; the tokenizer's folder is added later."""
        peft = config.peft
        arguments: dict[str, Any] = {
            "num_virtual_tokens": peft.num_virtual_tokens,
            "prompt_tuning_init": peft.prompt_tuning_init,
            "task_type": peft.task_type,
        }
        if peft.prompt_tuning_init == "TEXT":
            arguments["prompt_tuning_init_text"] = peft.prompt_tuning_init_text
            arguments["tokenizer_name_or_path"] = (
                config.model.tokenizer_name or config.model.model_name
            )
        return arguments

    def parameters(self, peft: Peft, name: str, d_out: int, d_in: int) -> int:
        """Return 0: no layer changes."""
        return 0

    def own_parameters(self, peft: Peft, width: int) -> int:
        """Count the numbers of the virtual tokens."""
        return peft.num_virtual_tokens * width

    def problems(self, config: Config) -> Iterator[Problem]:
        """Check the text, and what cannot be combined with virtual tokens."""
        peft, data = config.peft, config.data
        if peft.prompt_tuning_init == "TEXT" and not (peft.prompt_tuning_init_text or "").strip():
            yield Problem(
                "peft.prompt_tuning_init_text",
                peft.prompt_tuning_init_text,
                "is empty, but prompt_tuning_init=TEXT starts from it.",
                "Write a text, such as the instruction.",
                {"peft.prompt_tuning_init": "SAMPLE_VOCAB"},
            )
        elif peft.prompt_tuning_init != "TEXT" and peft.prompt_tuning_init_text:
            yield Problem(
                "peft.prompt_tuning_init_text",
                peft.prompt_tuning_init_text,
                f"has no effect with prompt_tuning_init={peft.prompt_tuning_init}.",
                "Use TEXT, or leave it empty.",
                {"peft.prompt_tuning_init": "TEXT"},
            )
        for name in ("packing", "padding_free"):
            if getattr(data, name):
                yield Problem(
                    f"data.{name}",
                    True,
                    "joins rows, but peft.method=prompt_tuning puts virtual tokens in front of each.",
                    "Turn it off.",
                    {f"data.{name}": False if name == "packing" else None},
                )
        for path, value in (
            ("peft.modules_to_save", peft.modules_to_save),
            ("model.freeze_layers", config.model.freeze_layers),
            ("peft.layers_to_transform", peft.layers_to_transform),
        ):
            if value:
                why = "has no effect with peft.method=prompt_tuning, which changes no layer."
                yield Problem(path, value, why, "Leave it out.", {path: []})
        if peft.task_type == "SEQ_2_SEQ_LM":
            yield Problem(
                "peft.task_type",
                peft.task_type,
                "does not go with peft.method=prompt_tuning, which is for models that continue a text.",
                "Use lora.",
                {"peft.method": "lora"},
            )


TYPE = PromptTuning()
