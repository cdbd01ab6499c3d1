"""Answers of a model to prompts. Called by `nbft.training` and `nbft.runs`."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

BATCH = 8
"""Prompts answered at a time."""


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int, **how: Any
) -> list[str]:
    """Return the answers of `generate_ids` as text, in the order of the prompts; arguments as there."""
    answers = generate_ids(model, tokenizer, prompts, max_new_tokens, **how)
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]


def generate_ids(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    *,
    batch_size: int = BATCH,
    do_sample: bool = False,
    temperature: float | None = None,
    top_p: float | None = None,
) -> list[list[int]]:
    """Answer prompts.

    Greedy by default, so that answers can be compared. Sampling and penalties in the model's
    generation_config are ignored, so that two models are treated alike. Prompts of similar length
    share a batch, the longest first; a batch that does not fit into memory is halved.

    Args:
        model: A causal language model; its mode is restored.
        tokenizer: Its tokenizer.
        prompts: Token ids of each prompt, at least one each.
        max_new_tokens: Longest answer; one with as many tokens was cut there.
        batch_size: Prompts answered at a time.
        do_sample: Draw tokens by their probability, with torch's random numbers.
        temperature: As in transformers' GenerationConfig; 1 when None.
        top_p: As in transformers' GenerationConfig; 1 when None.

    Returns:
        The token ids of the answers, in the order of the prompts, without prompt and end token.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    ends = _ends(model, tokenizer)
    settings = _settings(tokenizer, ends, max_new_tokens, do_sample, temperature, top_p)
    answers: list[list[int]] = [[] for _ in prompts]
    todo = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
    was_training = model.training
    model.eval()
    try:
        while todo:
            batch = todo[:batch_size]
            try:
                batch_ids = _answer(model, tokenizer, [prompts[n] for n in batch], settings)
            except RuntimeError as error:
                is_shared = hasattr(model, "unshard")  # other processes compute the same batch
                if len(batch) == 1 or is_shared or not should_reduce_batch_size(error):
                    raise
                batch_ids = None
            if batch_ids is None:  # after the except block, which keeps memory alive
                clear_device_cache(garbage_collection=True)
                batch_size = len(batch) // 2
                continue
            for number, ids in zip(batch, batch_ids, strict=True):
                end = next((n for n, token in enumerate(ids) if token in ends), len(ids))
                answers[number] = ids[:end]
            todo = todo[len(batch) :]
    finally:
        model.train(was_training)
    return answers


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, and those that the model names."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    named = own if isinstance(own, list) else [own]
    return sorted({i for i in (tokenizer.eos_token_id, *named) if i is not None})


def _settings(
    tokenizer: Any,
    ends: list[int],
    max_new_tokens: int,
    do_sample: bool,
    temperature: float | None,
    top_p: float | None,
) -> Any:
    from transformers import GenerationConfig

    drawing = {"temperature": temperature or 1.0, "top_p": top_p or 1.0, "top_k": 0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=ends,
        use_cache=True,
        **(drawing if do_sample else {"temperature": 1.0, "top_p": 1.0, "top_k": 50}),
    )


def write(
    model: Any,
    tokenizer: Any,
    prompt: list[int],
    max_new_tokens: int,
    take: Callable[[list[int]], bool],
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
) -> list[int]:
    """Answer one prompt, and hand over what is written after every token.

    Tokens are drawn with random numbers of their own: a run that trains in this process keeps its.

    Args:
        model: A causal language model, or one with an encoder; its mode is restored.
        tokenizer: Its tokenizer.
        prompt: Token ids of the prompt, at least one.
        max_new_tokens: Longest answer.
        take: Called with the token ids so far, without the end; returns whether to go on.
        temperature: As in transformers' GenerationConfig; 0 takes the most likely token.
        top_p: As there; only with a temperature.
        seed: Of the random numbers; another one each time when None.

    Returns:
        The token ids of the answer, without prompt and end token.
    """
    import torch
    from transformers import LogitsProcessorList, StoppingCriteriaList

    ends = _ends(model, tokenizer)
    begin = 1 if getattr(model.config, "is_encoder_decoder", False) else len(prompt)
    begin = 0 if _has_virtual_tokens(model) else begin  # they are read as embeddings

    def until_end(ids: list[int]) -> list[int]:
        return ids[: next((n for n, token in enumerate(ids) if token in ends), len(ids))]

    def watch(ids: Any, _scores: Any, **_: Any) -> Any:
        is_over = not take(until_end(ids[0, begin:].tolist()))
        return torch.full((len(ids),), is_over, dtype=torch.bool, device=ids.device)

    processors = [_drawing(model, temperature, top_p, seed)] if temperature else []
    was_training = model.training
    model.eval()
    try:
        (ids,) = _answer(
            model,
            tokenizer,
            [prompt],
            _settings(tokenizer, ends, max_new_tokens, False, None, None),
            stopping_criteria=StoppingCriteriaList([watch]),
            logits_processor=LogitsProcessorList(processors),
        )
    finally:
        model.train(was_training)
    return until_end(ids)


def _drawing(model: Any, temperature: float, top_p: float, seed: int | None) -> Any:
    """Return a processor of logits that draws the token and leaves no other one."""
    import torch
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    numbers = torch.Generator(next(model.parameters()).device)
    if seed is None:
        numbers.seed()
    else:
        numbers.manual_seed(seed)
    warpers: list[Any] = [TemperatureLogitsWarper(float(temperature))]
    if top_p < 1:
        warpers.append(TopPLogitsWarper(float(top_p)))

    def draw(ids: Any, scores: Any) -> Any:
        for warper in warpers:
            scores = warper(ids, scores)
        drawn = torch.multinomial(scores.float().softmax(-1), 1, generator=numbers)
        return torch.full_like(scores, float("-inf")).scatter(1, drawn, 0.0)

    return draw


def _answer(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], settings: Any, **how: Any
) -> list[list[int]]:
    """Answer one batch, padded and masked on the left."""
    import torch

    decodes_apart = getattr(model.config, "is_encoder_decoder", False)
    if decodes_apart:  # the encoder reads an end token, as in training
        prompts = [[*prompt, tokenizer.eos_token_id] for prompt in prompts]
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    device = next(model.parameters()).device
    if _has_virtual_tokens(model):
        rows = [_with_virtual_tokens(model, torch.tensor(p, device=device)) for p in prompts]
        there = [torch.ones(len(row), dtype=torch.long, device=device) for row in rows]
        embeds, seen = (
            torch.nn.utils.rnn.pad_sequence(each, batch_first=True, padding_side="left")
            for each in (rows, there)
        )
        with torch.no_grad():
            out = model.get_base_model().generate(
                inputs_embeds=embeds, attention_mask=seen, generation_config=settings, **how
            )
        return out.tolist()  # type: ignore[no-any-return]
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=seen, generation_config=settings, **how)
    return out[:, 1 if decodes_apart else width :].tolist()  # type: ignore[no-any-return]


def _has_virtual_tokens(model: Any) -> bool:
    """Whether vectors that prompt tuning has trained stand in front of each row."""
    about = getattr(model, "active_peft_config", None)
    is_on = not getattr(model, "_adapters_disabled", False)
    return is_on and bool(getattr(about, "is_prompt_learning", False))


def _with_virtual_tokens(model: Any, ids: Any) -> Any:
    """Return the embeddings [s, hidden] of the virtual tokens and of a prompt [s'].

    PEFT's own `generate` puts the virtual tokens in front of every token that is written, and behind
    the padding (seen with PEFT 0.21 and transformers 5.24). The base model writes what it should
    from embeddings.
    """
    import torch

    with torch.no_grad():
        of_ids = model.get_base_model().get_input_embeddings()(ids)
        return torch.cat([model.get_prompt(batch_size=1)[0].to(of_ids.dtype), of_ids])


def token_losses(model: Any, rows: Sequence[tuple[list[int], list[bool]]]) -> list[list[float]]:
    """Return the loss of every trained token in nats, one row at a time to save memory.

    Args:
        model: A language model; its mode is restored.
        rows: Token ids and loss mask of each row, [s] each. The first token is never predicted.
    """
    import torch

    was_training = model.training
    model.eval()
    losses = []
    try:
        for ids, loss_mask in rows:
            with torch.no_grad():
                logits, targets = _predictions(model, ids, loss_mask)
                of_row = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            losses.append([float(loss) for loss in of_row.tolist()])
    finally:
        model.train(was_training)
    return losses


def _predictions(model: Any, ids: list[int], loss_mask: list[bool]) -> tuple[Any, Any]:
    """Return the logits of the trained tokens [n, vocabulary], and their ids [n]."""
    import torch

    device = next(model.parameters()).device
    if getattr(model.config, "is_encoder_decoder", False):
        begin = loss_mask.index(True)
        given = torch.tensor([[*ids[:begin], model.config.eos_token_id]], device=device)
        wanted = torch.tensor([ids[begin:]], device=device)
        return model(input_ids=given, labels=wanted).logits[0].float(), wanted[0]
    given = torch.tensor([ids], device=device)
    positions = [n for n, on in enumerate(loss_mask) if on and n > 0]
    logits = model(input_ids=given).logits[0, -len(ids) :]  # virtual tokens come before
    logits = logits[[n - 1 for n in positions]]
    return logits.float(), given[0, positions]


def in_precision(model: Any, mixed_precision: str) -> contextlib.AbstractContextManager[Any]:
    """Compute with the training's mixed precision: bf16, fp16 or no."""
    import torch

    numbers = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)
    device = next(model.parameters()).device.type
    return torch.autocast(device, numbers) if numbers else contextlib.nullcontext()


@contextlib.contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Use a separate seed, then restore the random numbers of Python, NumPy and torch."""
    import numpy as np
    import torch

    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    apple = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)  # of every device
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
        if apple is not None:
            torch.mps.set_rng_state(apple)
