"""The time of the training steps on a CPU, from what they compute. Loads no library.

Matrix products take their operations at this machine's rate. What memory limits takes a time for each
number, and each layer a fixed one. Called by `nbft.plan.plan`.

The constants were fitted to 15 configurations of 16 and 135 million parameters on two cores of an AMD
EPYC (torch 2.13, bfloat16 products); docs/forecast.md says how far off they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from nbft.config import Config
from nbft.decisions import Decisions
from nbft.hardware import has_bfloat16
from nbft.matmul_rate import kept_rate, product_dtype, usable_threads
from nbft.methods import method_of
from nbft.plan.memory import Shape, trainable_parameters

_ASSUMED_FLOPS = {"bfloat16": 480e9, "float32": 110e9}
"""Rate of one core where none was measured: AMD EPYC with AVX-512 BF16."""

_AMX = 2.4
"""How many times as fast bfloat16 is with matrix units: Intel Xeon, 2.3 TFLOP/s on two cores."""

_MORE_CORES = 0.75
"""Exponent of the number of cores: 2 cores do 1.3 to 1.7 times as much as one."""

_PRODUCT_SHARE = 1 / 1.2
"""Share of the rate that the products of a step reach."""

_SECONDS_PER_LAYER = 3.2e-3
"""Of a batch, whatever its size."""

_SECONDS_OF_FIRST_STEP = 0.6
"""How much longer it takes than the others, while memory is taken and products are prepared."""

# On two cores:
_SECONDS_PER_ATTENTION_FLOP = 4.4e-12
_SECONDS_PER_LOGIT = 6.1e-9
_SECONDS_PER_LIBRARY_LOGIT = 38.6e-9
_SECONDS_PER_UPDATE = 8.8e-9
"""Of a trained weight in full training, with its copy in 16 bits; an adapter's are few."""

_QUANTISED = 1 / 0.88
"""Times as long with 4-bit or 8-bit weights; Intel Xeon, docs/speed.md."""


def assumed_rate(decisions: Decisions) -> float:
    """Return the operations per second of products on a CPU that was not measured."""
    dtype = product_dtype(decisions)
    flops = _ASSUMED_FLOPS.get(dtype, _ASSUMED_FLOPS["float32"])
    if dtype == "bfloat16" and "amx" in has_bfloat16("cpu").reason:
        flops *= _AMX
    return float(flops * usable_threads() ** _MORE_CORES)


def training_seconds(
    config: Config,
    shape: Shape,
    decisions: Decisions,
    *,
    tokens: int,
    steps: int,
    lengths: Sequence[int],
) -> float | None:
    """Estimate the seconds of the training steps on a CPU; None on other devices.

    A product of a token and a weight costs 2 operations, and as many for the gradient of its input
    and for that of a trained weight. Attention costs 4 for each token, number of a query and token
    attended to, twice that backwards (PaLM, arXiv:2204.02311, appendix B).

    Args:
        config: The config.
        shape: The model's shape.
        decisions: What it leads to on this machine.
        tokens: Tokens in all steps together, without padding.
        steps: Optimiser steps.
        lengths: Tokens of some rows, at least one.
    """
    if decisions.device.value != "cpu":
        return None
    trained = trainable_parameters(config, shape)
    is_adapted = config.peft.trains_adapter
    rows = config.training.per_device_train_batch_size
    of_row = sum(n * n for n in lengths) / sum(lengths)  # tokens of the row that a token is in
    if not decisions.padding_free and config.data.max_tokens_per_batch is None:
        longest = _longest(lengths, rows)
        tokens, of_row = round(tokens * longest * len(lengths) / sum(lengths)), longest
    again = _computed_again(config, shape)
    weights = sum(d_out * d_in for _, d_out, d_in in shape.layers)
    if shape.mixture:  # of the experts only those that a token is sent to
        weights += 3 * shape.num_layers * shape.hidden_size * shape.intermediate_size
    logits = 0 if method_of(config).scores_answers else shape.vocab_size
    head = logits * shape.hidden_size
    learnt = 0.0 if is_adapted else min(1.0, trained / shape.parameters)
    products = weights * (2 + learnt + again) + head * (2 + learnt)
    products += trained * (3 + again) if is_adapted else 0
    rate = kept_rate(decisions.device.value, product_dtype(decisions)) or assumed_rate(decisions)
    attention = 4 * shape.num_layers * shape.query_width * of_row * (3 + again)
    a_logit = _SECONDS_PER_LIBRARY_LOGIT
    if decisions.uses("label_head"):
        a_logit = _SECONDS_PER_LOGIT
    seconds = tokens * (attention * _SECONDS_PER_ATTENTION_FLOP + logits * a_logit)
    seconds += 0 if is_adapted else steps * trained * _SECONDS_PER_UPDATE
    seconds *= (2 / usable_threads()) ** _MORE_CORES
    seconds += tokens * 2 * products / (rate * _PRODUCT_SHARE)
    batches = steps * config.training.gradient_accumulation_steps
    seconds += batches * shape.num_layers * _SECONDS_PER_LAYER + _SECONDS_OF_FIRST_STEP
    return float(seconds * (_QUANTISED if config.quantization.bits is not None else 1))


def _longest(lengths: Sequence[int], rows: int) -> float:
    """Return the mean of the longest of some rows that are drawn at random.

    >>> _longest([10, 20], 1), _longest([10, 20], 2), _longest([7] * 5, 8)
    (15.0, 17.5, 7.0)
    """
    ordered, count = sorted(lengths), len(lengths)
    shares = [(n / count) ** rows for n in range(count + 1)]
    return float(sum(n * (b - a) for n, a, b in zip(ordered, shares, shares[1:], strict=False)))


def _computed_again(config: Config, shape: Shape) -> float:
    """Return the share of the forward pass that is recomputed in the backward pass."""
    granularity = config.memory.recompute_granularity
    if not config.memory.gradient_checkpointing or granularity == "core_attn":
        return 0.0  # core_attn is negligible beside the projections
    if granularity == "full":
        return 1.0
    sizes = [(".mlp." in name, d_out * d_in) for name, d_out, d_in in shape.layers]
    return sum(n for is_mlp, n in sizes if not is_mlp) / max(1, sum(n for _, n in sizes))
