"""Learning rates that suit a fine-tuning method.

Used by the checks, by advice that changes the method, and by the notes of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nbft import registry
from nbft.config import Config
from nbft.methods import Method, method_of


class Rates(NamedTuple):
    """The learning rates of a method.

    Attributes:
        name: The method, as part of a sentence.
        lowest, highest: Check warns outside of these.
        proposed: What it proposes instead.
        usual: What the guides recommend, in words.
    """

    name: str
    lowest: float
    highest: float
    proposed: float
    usual: str


RATES = {
    "lora": Rates(
        "LoRA",
        *(2e-5, 2e-3, 2e-4),
        "1e-4 to 5e-4; Unsloth: 5e-5 to 1e-4, PEFT Studio: up to 5e-4",
    ),
    "adalora": Rates("AdaLoRA", 5e-5, 1e-2, 5e-4, "5e-4 to 2e-3, arXiv:2303.10512, appendix C"),
    "vera": Rates("VeRA", 2e-4, 5e-2, 4e-3, "2e-3 to 1e-2, ten times LoRA's, arXiv:2310.11454"),
    "oft": Rates("OFT", 2e-5, 2e-3, 2e-4, "as for LoRA"),
    "ia3": Rates("IA3", 1e-4, 5e-2, 3e-3, "1e-3 to 1e-2, arXiv:2205.05638, section 3.3"),
    "ln_tuning": Rates("LayerNorm tuning", 2e-5, 2e-2, 1e-3, "1e-4 to 1e-2"),
    "prompt_tuning": Rates(
        "prompt tuning", 1e-4, 0.5, 1e-2, "3e-3 to 0.3, arXiv:2104.08691, section 3.2"
    ),
    "full": Rates(
        "full training",
        *(1e-6, 1e-4, 2e-5),
        "1e-5 to 5e-5; Oumi: 2e-5, ERNIEKit: 3e-5, QEfficient: 5e-5",
    ),
    "sgd": Rates("SGD", 1e-3, 1.0, 0.05, "0.01 to 0.1, because SGD does not scale its steps"),
}
"""By peft.method; SGD's own for all of them."""

PREFERENCE_RATES = {
    "lora": Rates(
        "preference training with LoRA",
        *(1e-6, 5e-4, 5e-5),
        "5e-6 for models of billions of parameters in TRL's and LLaMA-Factory's examples, up to 2e-4 "
        "for small ones",
    ),
    "full": Rates(
        "preference training of all weights",
        *(1e-7, 5e-5, 1e-6),
        "5e-7 to 1e-6 in TRL's examples, up to 1e-5 for small models",
    ),
}
"""The same for methods that learn from bad answers too: they push answers away, which has no end.

Source: TRL, trl/scripts/dpo.py; LLaMA-Factory, examples/train_lora/llama3_lora_dpo.yaml.
"""

REWARD_RATES = {
    "lora": Rates(
        "a reward model with LoRA",
        *(1e-5, 2e-3, 1e-4),
        "1e-4 in TRL's and LLaMA-Factory's examples",
    ),
    "full": Rates(
        "a reward model of which all weights are trained",
        *(1e-6, 1e-4, 1e-5),
        "1e-5 in TRL's examples",
    ),
}
"""The same for reward models, which push apart two scores and no answers.

Source: TRL, examples/scripts/reward_modeling.py; LLaMA-Factory, examples/train_lora/qwen3_lora_reward.yaml.
"""


def rates_of_method(method: Method) -> Mapping[str, Rates]:
    """Return the learning rates of a training method by peft.method; {} where they are the usual ones."""
    if method.scores_answers:
        return REWARD_RATES
    return PREFERENCE_RATES if method.uses_labels else {}


def rates_of(config: Config) -> Rates:
    """Return the learning rates that suit a config."""
    if config.optimizer.optim == "sgd":
        return RATES["sgd"]
    # A trainer of somebody's own is not imported for this: nobody may have allowed it yet.
    is_own = registry.trainers.is_own(config.training.method)
    own = {} if is_own else rates_of_method(method_of(config))
    return own.get(config.peft.method) or RATES[config.peft.method]


def with_its_rate(config: Config, changes: dict[str, Any]) -> dict[str, Any]:
    """Return changes of the method with the learning rate that suits it.

    Args:
        config: The config to change.
        changes: Settings by path.

    >>> full = Config(peft={"method": "full"}, training={"learning_rate": 2e-5})
    >>> with_its_rate(full, {"peft.method": "lora"})
    {'peft.method': 'lora', 'training.learning_rate': 0.0002}
    """
    after = rates_of(config.apply(changes))
    if rates_of(config) is after:
        return changes
    return {**changes, "training.learning_rate": after.proposed}
