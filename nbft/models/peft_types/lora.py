"""LoRA and its variants: two thin matrices beside each layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbft.config import Config
from nbft.config.peft import Peft
from nbft.errors import Problem
from nbft.models.peft_types.peft_type import PeftType, rank_of

CHANGES_WEIGHTS = ("pissa", "olora")
"""How the names of initial weights begin that are taken out of the model's."""


def changes_weights(peft: Peft) -> bool:
    """Whether the adapter begins with a part of the model's weights, which is taken out of them."""
    return peft.method == "lora" and peft.init_lora_weights.startswith(CHANGES_WEIGHTS)


class Lora(PeftType):
    """y = x W' + s (x A') B', with A [r, d_in] and B [d_out, r]."""

    name = "lora"
    title = "LoRA"
    config_class = "LoraConfig"
    settings = PeftType.settings | {
        *("r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora"),
        *("init_lora_weights", "eva_rho", "rank_pattern", "alpha_pattern", "loraplus_lr_ratio"),
    }
    adapts_embeddings = True

    def title_of(self, config: Config) -> str:
        """Return LoRA, DoRA, QLoRA or QDoRA."""
        name = "DoRA" if config.peft.use_dora else "LoRA"
        return f"Q{name}" if config.quantization.bits else name

    def arguments(self, config: Config, total_steps: int | None = None) -> dict[str, Any]:
        """Return the arguments of PEFT's LoraConfig."""
        peft = config.peft
        # LoftQ's, PiSSA's and OLoRA's are computed once the layers are there.
        starts: dict[str, Any] = {"default": True, "random": False, "loftq": True}
        if changes_weights(peft):
            starts[peft.init_lora_weights] = True
        arguments = {
            "r": peft.r,
            "lora_alpha": peft.alpha,
            "lora_dropout": peft.lora_dropout,
            **self.layers(config),
            "bias": peft.bias,
            "use_rslora": peft.use_rslora,
            "use_dora": peft.use_dora,
            "init_lora_weights": starts.get(peft.init_lora_weights, peft.init_lora_weights),
            "task_type": peft.task_type,
        }
        for name in ("rank_pattern", "alpha_pattern"):
            if pattern := getattr(peft, name):
                arguments[name] = dict(pattern)
        if peft.init_lora_weights == "eva":
            arguments["eva_config"] = {"rho": peft.eva_rho}
        return arguments

    def peft_config(self, arguments: dict[str, Any]) -> Any:
        """Return PEFT's LoraConfig."""
        import peft

        if eva := arguments.get("eva_config"):
            arguments = {**arguments, "eva_config": peft.EvaConfig(**eva)}
        return peft.LoraConfig(**arguments)

    def parameters(self, peft: Peft, name: str, d_out: int, d_in: int) -> int:
        """Count A, B and, of DoRA, the magnitude of each output.

        Source: LoRA, arXiv:2106.09685, section 4.1; DoRA, arXiv:2402.09353, section 4.1.

        >>> Lora().parameters(Peft(r=4, use_dora=True), "q_proj", 768, 512)
        5888
        """
        return rank_of(peft, name) * (d_out + d_in) + (d_out if peft.use_dora else 0)

    def problems(self, config: Config) -> Iterator[Problem]:
        """Check the initial weights, and what they need."""
        peft, how = config.peft, config.quantization
        start = peft.init_lora_weights
        if changes_weights(peft) and how.bits:
            yield Problem(
                "peft.init_lora_weights",
                start,
                "changes the weights of the base model, but they are quantised.",
                "Use default, or do not quantise the model.",
                {"peft.init_lora_weights": "default"},
            )
        if start == "orthogonal":
            yield from _odd_ranks(peft)
        if start == "loftq" and not how.load_in_4bit:
            yield Problem(
                "peft.init_lora_weights",
                start,
                "makes up for the rounding of 4-bit weights, but quantization.load_in_4bit is off.",
                "Turn it on, or use default.",
                {"quantization.load_in_4bit": True},
            )
        elif start == "loftq" and how.bnb_4bit_quant_type != "nf4":
            yield Problem(
                "quantization.bnb_4bit_quant_type",
                how.bnb_4bit_quant_type,
                "does not go with peft.init_lora_weights=loftq, which computes with nf4.",
                "Use nf4.",
                {"quantization.bnb_4bit_quant_type": "nf4"},
            )
        if start == "eva" and peft.use_dora:
            yield Problem(
                "peft.use_dora",
                peft.use_dora,
                "conflicts with init_lora_weights=eva, which changes the ranks after DoRA has "
                "measured the weights.",
                "Turn it off.",
                {"peft.use_dora": False},
            )
        for pattern, rank in peft.rank_pattern.items():
            if rank < 1:
                why = f"has the rank {rank} for {pattern}, but a layer needs at least 1."
                fix = "Leave the layer out of peft.target_modules instead."
                yield Problem("peft.rank_pattern", peft.rank_pattern, why, fix)
        for pattern, alpha in peft.alpha_pattern.items():
            if alpha <= 0:
                why = f"has {alpha:g} for {pattern}, which would disable its adapter."
                yield Problem("peft.alpha_pattern", peft.alpha_pattern, why, "Use more than 0.")

    def remarks(self, config: Config) -> Iterator[str]:
        """Say what -1 means, and what is saved instead of the trained matrices."""
        peft = config.peft
        if peft.lora_alpha == -1:
            rule = (
                "4, because use_rslora is on"
                if peft.use_rslora
                else f"twice the rank: {peft.alpha}"
            )
            yield f"peft.lora_alpha=-1 means {rule}."
        if changes_weights(peft):
            yield (
                f"init_lora_weights={peft.init_lora_weights} moves a part of the model's weights into "
                "the adapter. The adapter is saved as plain LoRA of twice the rank, which fits the "
                "unchanged model."
            )
        if peft.init_lora_weights == "eva":
            looks = "init_lora_weights=eva looks at the inputs of every layer before the first step"
            most = round(peft.r * peft.eva_rho)
            gives = f" and gives each a rank of up to {most}; the numbers here are for equal ranks"
            yield f"{looks}{gives if most > peft.r else ''}."

    def prepares(self, config: Config) -> bool:
        """Whether the initial matrices are not set by PEFT's config."""
        return config.peft.init_lora_weights in ("eva", "loftq") or changes_weights(config.peft)

    def prepare(self, model: Any, config: Config, rows: Any, pad_token_id: int) -> None:
        """Set the initial matrices."""
        start = config.peft.init_lora_weights
        if start == "eva":
            from nbft.models.eva import use_eva

            use_eva(model, rows, pad_token_id)
        elif start == "loftq":
            from nbft.models.find import find_local
            from nbft.models.loftq import use_loftq

            found = find_local(config.model.model_name, config.model.model_revision)
            use_loftq(model, found.path if found else None)
        else:
            from nbft.models.initial_weights import use_part_of_weights

            use_part_of_weights(model, start)


def _odd_ranks(peft: Peft) -> Iterator[Problem]:
    needs = "but init_lora_weights=orthogonal needs an even rank."
    if peft.r % 2:
        changes = {"peft.r": peft.r + 1}
        yield Problem("peft.r", peft.r, f"is odd, {needs}", f"Use {peft.r + 1}.", changes)
    for pattern, rank in peft.rank_pattern.items():
        if rank % 2:
            why = f"has the odd rank {rank} for {pattern}, {needs}"
            yield Problem("peft.rank_pattern", peft.rank_pattern, why, f"Use {rank + 1}.")


TYPE = Lora()
