"""LayerNorm tuning: a trained copy of each norm."""

from __future__ import annotations

from typing import Any

from nbft.config.peft import Peft
from nbft.models.peft_types.peft_type import PeftType, as_narrow_as_input


class LnTuning(PeftType):
    """The weights of norms, trained as they are."""

    name = "ln_tuning"
    title = "LayerNorm tuning"
    config_class = "LNTuningConfig"
    adapts = "norms"
    is_float32 = True

    def parameters(self, peft: Peft, name: str, d_out: int, d_in: int) -> int:
        """Count the weights of a norm [1, d_in]."""
        return d_out * d_in

    def fit_types(self, model: Any) -> bool:
        """Make the trained norms float32, and return what they compute in the type of their input."""
        is_changed = False
        for layer in model.modules():
            for norm in getattr(layer, "ln_tuning_layers", {}).values():
                norm.register_forward_hook(as_narrow_as_input)
                for p in norm.parameters():
                    if p.dtype.itemsize < 4:
                        p.data, is_changed = p.data.float(), True
        return is_changed


TYPE = LnTuning()
