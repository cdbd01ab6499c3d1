"""IA3: scales of the outputs of each layer, or of its inputs."""

from __future__ import annotations

import re
from typing import Any

from nbft.config import Config
from nbft.config.peft import Peft
from nbft.models.peft_types.peft_type import PeftType


class Ia3(PeftType):
    """y = l (x W'), or (l x) W' of a feed-forward layer."""

    name = "ia3"
    title = "IA3"
    config_class = "IA3Config"
    settings = PeftType.settings | {"feedforward_modules"}
    is_float32 = True

    def arguments(self, config: Config, total_steps: int | None = None) -> dict[str, Any]:
        """Return the arguments of PEFT's IA3Config."""
        names = "|".join(map(re.escape, config.peft.feedforward_modules))
        return {
            **self.layers(config),
            # As a pattern: a list would have to be part of target_modules.
            "feedforward_modules": rf".*\.({names})" if names else "$^",
            "task_type": config.peft.task_type,
        }

    def parameters(self, peft: Peft, name: str, d_out: int, d_in: int) -> int:
        """Count the inputs of a feed-forward layer, or the outputs of another."""
        ends = peft.feedforward_modules
        return d_in if any(name == end or name.endswith(f".{end}") for end in ends) else d_out


TYPE = Ia3()
