"""Proof of an export: the reloaded model is asked what the trained one was asked.

Both read the same prompts and conversations, each through its own tokenizer and template, and
answer them greedily. Logits are compared over the prompts with the answers of the trained model.
Called by `nbft.export.exporting`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nbft.evaluate.generate import generate_ids
from nbft.formatting import count, number

ANSWER_TOKENS = 32
"""Longest answer that is compared: an error in the weights shows in the first few tokens."""

COMPARED_TOKENS = 64
"""Last tokens of prompt and answer whose logits are compared: of 6 rows and 150,000 tokens of
vocabulary they take 230 MB."""

_MOST_PROMPTS = 4

_QUESTION = "What is the capital of France?"
_CONVERSATIONS = {
    "a question": [{"role": "user", "content": _QUESTION}],
    "a system turn": [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": _QUESTION},
    ],
    "a second question": [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Spain, in 2026?"},
    ],
}

TOLERANCES = {"float32": 2e-3, "float16": 0.3, "bfloat16": 2.0}
"""Largest difference of logits that arithmetic alone explains, by the number type of the products, in
standard deviations of the trained model's logits. In float32, SmolLM2-135M with its adapter apart and
merged differed by 3e-5; its weights rounded to bfloat16, whose products are as coarse, by 0.94."""

_LLAMA_TIE = 0.6
"""Difference of two logits that llama.cpp's arithmetic can turn around, in the same unit: it rounds what
it multiplies with weights in blocks to 8 bits. Its log-probabilities for SmolLM2-135M differed from
those of transformers by up to 0.002 with weights in float32, 0.01 in bfloat16 and 0.1 in q8_0."""

_LOST = 0.7
"""An export that is this close to the base model, as a share of what training has changed, is no
longer the trained model."""


@dataclass(frozen=True)
class Case:
    """What both models are asked.

    Attributes:
        name: What it shows.
        text: Its text, as the tokenizer of the run renders it.
        messages: The conversation; None for a text.
    """

    name: str
    text: str
    messages: list[dict[str, str]] | None = None

    def given(self, tokenizer: Any) -> tuple[str, bool]:
        """Return its text, and whether special tokens are added to it.

        Args:
            tokenizer: Renders the conversation with its own template.
        """
        text = self.text if self.messages is None else _rendered(self.messages, tokenizer)
        begins = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        return text, self.messages is None and not begins

    def ids(self, tokenizer: Any) -> list[int]:
        """Return its token ids with a tokenizer, which renders the conversation itself."""
        text, adds = self.given(tokenizer)
        return list(tokenizer(text, add_special_tokens=adds)["input_ids"])


class Observed(NamedTuple):
    """What a model makes of the cases; lists have an entry for each.

    Attributes:
        prompts: Token ids by its own tokenizer.
        answers: Token ids of its greedy answers, without the end token.
        is_ended: Whether an end token came within `ANSWER_TOKENS`.
        logits: Logits after the compared tokens of each row, [s, v] in float32.
        rows: The rows that were read: prompt and answer of the trained model.
        ends: Tokens that end an answer.
    """

    prompts: list[list[int]]
    answers: list[list[int]]
    is_ended: list[bool]
    logits: list[Any]
    rows: list[list[int]]
    ends: set[int]


class Reread(NamedTuple):
    """What llama.cpp makes of the cases; lists have an entry for each.

    Attributes:
        read_by: llama.cpp and its build.
        prompts: Token ids by its own tokenizer.
        choices: What it would write at each place of the trained model's answer, and after it.
        is_ended: Whether it ends the answer where the trained model did.
        refused: Why it cannot load or render the file; "" if it can.
        absent: Why it was not asked; "" if it was.
    """

    read_by: str = "llama.cpp"
    prompts: Sequence[list[int]] = ()
    choices: Sequence[list[int]] = ()
    is_ended: Sequence[bool] = ()
    refused: str = ""
    absent: str = ""


class Proof(dict[str, Any]):
    """Numbers of a proof by name; `passed` says whether they are as they should be.

    Keys: passed; same_token_ids; largest_logit_difference from the trained model, all of it from
    rounding the weights to dtype if merge_difference (of the merged from the trained model) and
    written_difference (of the export from the merged, rounded model) are at most logit_tolerance, in
    logits; same_first_choices, a share; same_answers; stops_at_end_of_turn; nearer_than_base, how many times
    nearer the export is to the trained model than the base model is (None after full training);
    cases and tokens that were compared; read_by, what reloaded the export; failures, sentences.

    Of GGUF also llama_cpp, its build, or None; llama_cpp_absent, why it has not read the file;
    llama_token_ids, whether they are the same; llama_first_choices, the share in which it agrees with
    transformers about the next token; llama_answers, how many greedy answers are those of the trained
    model.
    """

    @property
    def passed(self) -> bool:
        """Whether the export is the trained model, within what its number type can hold."""
        return bool(self["passed"])

    @property
    def sentence(self) -> str:
        """The proof in a sentence."""
        if not self.passed:
            return f"The proof failed: {' '.join(self['failures'])}"
        ids = "same token ids" if self["same_token_ids"] else "other token ids"
        answers = "same answers" if self["same_answers"] else "answers part where rounding decides"
        return (
            f"Reloaded by {self['read_by']}, {count(self['cases'], 'prompt')}: {ids}, {answers}, "
            f"largest difference of logits {number(self['largest_logit_difference'])}, of which "
            f"{number(self['written_difference'])} is not rounding to {self['dtype']}, "
            f"{self['same_first_choices']:.1%} equal first choices.{self._of_llama_cpp}"
        )

    @property
    def _of_llama_cpp(self) -> str:
        if build := self.get("llama_cpp"):
            same = f"{self['llama_answers']} of {self['cases']} greedy answers"
            share = f"{self['llama_first_choices']:.1%}"
            return (
                f" {build}: same token ids, {same} of the trained model, {share} equal first choices "
                "with that reader."
            )
        if why := self.get("llama_cpp_absent"):
            return f" llama.cpp itself has not read it: {why}."
        return ""

    def __str__(self) -> str:
        return self.sentence


def cases_of(samples: Sequence[Mapping[str, Any]], tokenizer: Any) -> list[Case]:
    """Return what to ask: prompts of the run, and conversations that its template takes.

    Args:
        samples: Samples of the run, each with its `prompt`.
        tokenizer: The tokenizer of the run.
    """
    prompts = list(dict.fromkeys(sample["prompt"] for sample in samples if sample["prompt"]))
    cases = [Case(f"prompt {n + 1}", text) for n, text in enumerate(prompts[:_MOST_PROMPTS])]
    if tokenizer.chat_template:
        for name, messages in _CONVERSATIONS.items():
            try:
                cases.append(Case(name, _rendered(messages, tokenizer), messages))
            except Exception:  # noqa: S112 - the template refuses such a turn, in words of its own
                continue
    return cases or [Case("a question", _QUESTION)]


def _rendered(messages: list[dict[str, str]], tokenizer: Any) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def observe(
    model: Any, tokenizer: Any, cases: Sequence[Case], trained: Observed | None = None
) -> Observed:
    """Ask a model.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        cases: What to ask.
        trained: What the trained model made of it, whose rows are read; None for that model itself.
    """
    prompts = [case.ids(tokenizer) for case in cases]
    asked = trained.prompts if trained else prompts
    answers = generate_ids(model, tokenizer, asked, ANSWER_TOKENS)
    rows = trained.rows if trained else [p + a for p, a in zip(prompts, answers, strict=True)]
    ends = model.generation_config.eos_token_id
    return Observed(
        prompts,
        answers,
        [len(answer) < ANSWER_TOKENS for answer in answers],
        [logits_of(model, row) for row in rows],
        rows,
        {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None},
    )


def logits_of(model: Any, row: list[int]) -> Any:
    """Return the logits after the last tokens of a row, [s, v] in float32 on the CPU."""
    import torch

    device = next(model.parameters()).device
    with torch.no_grad():
        given = torch.tensor([row], device=device)
        # Virtual tokens come before those of the row.
        logits = model(input_ids=given).logits[0, -min(len(row), COMPARED_TOKENS) :]
    return logits.float().cpu()


def prove(
    trained: Observed,
    exported: Observed,
    *,
    merged: Sequence[Any],
    rounded: Sequence[Any],
    dtype: str,
    computed_in: str,
    end: int | None,
    read_by: str,
    base: Sequence[Any] | None = None,
    reread: Reread | None = None,
) -> Proof:
    """Compare an export with the trained model.

    Merging and writing must change nothing but what rounding the weights changes, which is known:
    the same rounding is done in memory.

    Args:
        trained: What the trained model made of the cases.
        exported: What the reloaded export made of them.
        merged: Logits of the merged model before its weights are rounded.
        rounded: Logits of the merged model with rounded weights.
        dtype: Number type of the export's weights.
        computed_in: Number type in which all of them computed.
        end: The token that ends a turn.
        read_by: What reloaded the export.
        base: Logits of the base model for the same rows; None if they are not known.
        reread: What llama.cpp made of the cases; None where it does not read such an export.
    """
    import torch

    width = min(one.shape[-1] for one in (*trained.logits, *exported.logits))
    first, second, whole, known = (
        torch.cat([one[:, :width] for one in logits])
        for logits in (trained.logits, exported.logits, merged, rounded)
    )
    spread = float(first.std(-1).mean())
    tolerance = TOLERANCES[computed_in] * spread
    merging, writing = float((first - whole).abs().max()), float((known - second).abs().max())
    difference = float((first - second).abs().max())
    failures = []
    same_ids = trained.prompts == exported.prompts
    if not same_ids:
        failures.append("The tokenizer of the export gives other token ids.")
    for what, found in (("merged model", merging), ("export", writing)):
        if not found <= tolerance:
            failures.append(
                f"The logits of the {what} differ by up to {number(found)} beyond what rounding "
                f"explains ({number(tolerance)} were expected at most)."
            )
    parted = [
        n
        for n in range(len(trained.rows))
        if not _answers_alike(trained, exported, n, 2 * (difference + tolerance))
    ]
    if parted:
        failures.append(f"It answers {count(len(parted), 'prompt')} otherwise.")
    stops = (end is None or end in exported.ends) and all(
        exported.is_ended[n]
        for n in range(len(trained.rows))
        if trained.is_ended[n] and trained.answers[n] == exported.answers[n]
    )
    if not stops:
        failures.append("It does not stop at the end of its turn.")
    nearer = None
    if base is not None:
        other = torch.cat([one[:, :width] for one in base])
        changed, lost = (float((first - one).square().mean().sqrt()) for one in (other, second))
        nearer = changed / lost if lost else None
        is_seen = changed > TOLERANCES["float32"] * spread
        if is_seen and not lost <= _LOST * changed:
            failures.append(
                f"Rounding to {dtype} changes the model by {number(lost)}, training changed it by "
                f"{number(changed)} (root mean squares of the logits), so what was trained is lost."
            )
    again: dict[str, Any] = {}
    if reread is not None:
        again = _of_reread(reread, trained, exported, _LLAMA_TIE * spread, failures)
    return Proof(
        passed=not failures,
        same_token_ids=same_ids,
        largest_logit_difference=difference,
        merge_difference=merging,
        written_difference=writing,
        logit_tolerance=tolerance,
        same_first_choices=float((first.argmax(-1) == second.argmax(-1)).float().mean()),
        same_answers=trained.answers == exported.answers,
        stops_at_end_of_turn=stops,
        nearer_than_base=nearer,
        cases=len(trained.rows),
        tokens=len(first),
        dtype=dtype,
        computed_in=computed_in,
        read_by=read_by,
        **again,
        failures=failures,
    )


def _of_reread(
    reread: Reread, trained: Observed, exported: Observed, tie: float, failures: list[str]
) -> dict[str, Any]:
    """Return what llama.cpp adds to a proof, and add what it finds wrong to the failures.

    Args:
        reread: What llama.cpp made of the cases.
        trained: What the trained model made of them.
        exported: What the export made of them in transformers.
        tie: The difference of two logits that llama.cpp's arithmetic can turn around.
        failures: Sentences.
    """
    if reread.absent:
        return {"llama_cpp": None, "llama_cpp_absent": reread.absent}
    if reread.refused:
        failures.append(f"llama.cpp {reread.refused}.")
        return {"llama_cpp": reread.read_by}
    same_ids = list(reread.prompts) == trained.prompts
    if not same_ids:
        failures.append("llama.cpp's tokenizer gives other token ids.")
    places = agreed = answers = parted = 0
    does_stop = True
    for n, chosen in enumerate(reread.choices):
        answer, logits = trained.answers[n], exported.logits[n]
        first = len(logits) - 1 - len(answer)  # the row ends with the answer
        gaps = [
            float(row.max() - row[token]) if token < len(row) else float("inf")
            for row, token in zip(logits[first:], chosen, strict=False)
        ]
        places, agreed = places + len(gaps), agreed + gaps.count(0.0)
        parted += any(not gap <= tie for gap in gaps)
        does_end = reread.is_ended[n]
        answers += chosen[: len(answer)] == answer and does_end == trained.is_ended[n]
        does_stop &= does_end or len(chosen) == len(answer) or chosen[-1] not in exported.ends
    if parted:
        failures.append(f"llama.cpp answers {count(parted, 'prompt')} otherwise than transformers.")
    if not does_stop:
        failures.append("llama.cpp does not stop at the end of its turn.")
    return {
        "llama_cpp": reread.read_by,
        "llama_token_ids": same_ids,
        "llama_first_choices": agreed / places if places else 1.0,
        "llama_answers": answers,
    }


def _answers_alike(trained: Observed, exported: Observed, n: int, tie: float) -> bool:
    """Whether two answers are equal, or part at a token that the trained model could have chosen.

    Args:
        trained: What the trained model made of the cases.
        exported: What the export made of them.
        n: Number of the case.
        tie: The difference of two logits that rounding can turn around.
    """
    ours, theirs = trained.answers[n], exported.answers[n]
    if ours == theirs:
        return True
    at = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if at is None:
        at = min(len(ours), len(theirs))
    logits = trained.logits[n]
    place = len(logits) - 1 - len(ours) + at  # the row ends with the answer
    if not 0 <= place < len(logits):
        return False
    other = logits[place, theirs[at]] if at < len(theirs) else logits[place, sorted(exported.ends)]
    return bool(logits[place].max() - other.max() <= tie)
