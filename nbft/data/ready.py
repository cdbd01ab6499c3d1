"""Bundled samples by name: the dataset they stand for, and how a row becomes a prompt.

A name stands for the bundled sample, so that it works without a network; `hub_name` is the whole
dataset, if there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbft.data.cells import to_text


@dataclass(frozen=True)
class Ready:
    """A bundled sample.

    Attributes:
        hub_name: The whole dataset on the hub; "" where the sample is all there is.
        completion_template: Text to train on.
        prompt_template: Text of the prompt; "" where prompt_func makes it.
        prompt_func: Function from a row to its prompt; "" where prompt_template makes it.
        subset: Its subset on the hub.
        metrics: Suitable scores, as in evaluation.metrics.
    """

    hub_name: str
    completion_template: str
    prompt_template: str = ""
    prompt_func: str = ""
    subset: str | None = None
    metrics: tuple[str, ...] = ()


READY = {
    "alpaca": Ready(
        hub_name="tatsu-lab/alpaca",
        prompt_func="nbft.data.ready:alpaca_prompt",
        completion_template="{output}",
        metrics=("perplexity",),  # there is more than one right answer
    ),
    "samsum": Ready(
        hub_name="knkarthick/samsum",
        prompt_template="Summarise this conversation.\n\n{dialogue}\n\nSummary:\n",
        completion_template="{summary}",
        metrics=("rouge",),
    ),
    "gsm8k": Ready(
        hub_name="openai/gsm8k",
        subset="main",
        prompt_template="Question: {question}\n\nAnswer:\n",
        completion_template="{answer}",
        metrics=("exact_match", "format"),
    ),
    "grammar": Ready(
        hub_name="jhu-clsp/jfleg",
        prompt_template="Correct this sentence.\n\n{input}\n\nCorrected:\n",
        completion_template="{target}",
        metrics=("exact_match",),
    ),
    "larger_number": Ready(
        hub_name="",
        # Two examples: without them a small model never writes the tags, and no reward tells its
        # answers apart.
        prompt_template="Write the larger number between tags.\n\n4 or 9? <answer>9</answer>\n"
        "71 or 26? <answer>71</answer>\n{numbers}?",
        completion_template=" <answer>{larger}</answer>",
        metrics=("exact_match",),
    ),
}


STANFORD_ALPACA = {
    True: "Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that appropriately completes the request.",
    False: "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.",
}
"""The opening sentences of Stanford Alpaca, by whether a row has an input.

Source: github.com/tatsu-lab/stanford_alpaca, train.py; QEfficient, docs/source/config.md.
"""


def create_alpaca_prompt(row: Mapping[str, Any]) -> str:
    """Return the prompt of Stanford Alpaca, with its opening sentences.

    >>> print(create_alpaca_prompt({"instruction": "Name a colour.", "input": ""}))
    Below is an instruction that describes a task. Write a response that appropriately \
completes the request.
    <BLANKLINE>
    ### Instruction:
    Name a colour.
    <BLANKLINE>
    ### Response:
    <BLANKLINE>
    """
    return f"{STANFORD_ALPACA[bool(row.get('input'))]}\n\n{alpaca_prompt(row)}"


def alpaca_prompt(row: Mapping[str, Any]) -> str:
    """Return a short prompt of an instruction, with its input where it has one.

    >>> print(alpaca_prompt({"instruction": "Add.", "input": "2 and 3"}))
    ### Instruction:
    Add.
    <BLANKLINE>
    ### Input:
    2 and 3
    <BLANKLINE>
    ### Response:
    <BLANKLINE>
    """
    text = to_text(row.get("input"))
    given = f"### Input:\n{text}\n\n" if text else ""
    return f"### Instruction:\n{to_text(row['instruction'])}\n\n{given}### Response:\n"
