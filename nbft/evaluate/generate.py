"""Answers of a model to prompts. Called by `nbft.training` and `nbft.runs`; torch comes loaded."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

BATCH = 8
"""Prompts answered at a time."""


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    *,
    batch_size: int = BATCH,
    do_sample: bool = False,
    temperature: float | None = None,
    top_p: float | None = None,
) -> list[str]:
    """Answer prompts.

    Greedy unless told otherwise: always the likeliest next token, so that answers can be compared.
    What the model's own generation_config says of sampling and penalties does not count, so that
    two models are asked alike. Prompts of like length share a batch, the longest come first; a
    batch that does not fit into memory is halved.

    Args:
        model: A causal language model, left in the mode it was in.
        tokenizer: Its tokenizer.
        prompts: Token ids of each prompt, at least one each.
        max_new_tokens: Longest answer.
        batch_size: Prompts answered at a time.
        do_sample: Draw tokens by their likelihood, from torch's random numbers.
        temperature: As in transformers' GenerationConfig, 1 when None.
        top_p: As there, 1 when None.

    Returns:
        The answers, in the order of the prompts, without the prompt and without the end.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    ends = _ends(model, tokenizer)
    settings = _settings(tokenizer, ends, max_new_tokens, do_sample, temperature, top_p)
    answers = [""] * len(prompts)
    todo = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
    was_training = model.training
    model.eval()
    try:
        while todo:
            batch = todo[:batch_size]
            try:
                found = _answer(model, tokenizer, [prompts[n] for n in batch], settings)
            except RuntimeError as error:
                if len(batch) == 1 or not should_reduce_batch_size(error):
                    raise
                found = None
            if found is None:  # past the except block, which held what is to be freed
                clear_device_cache(garbage_collection=True)
                batch_size = len(batch) // 2
                continue
            for number, ids in zip(batch, found, strict=True):
                text = tokenizer.decode(_until(ids, ends), skip_special_tokens=True)
                answers[number] = text.strip()
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


def _answer(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], settings: Any
) -> list[list[int]]:
    """Answer one batch; the padding stands on the left, where the model does not look."""
    import torch

    decodes_apart = getattr(model.config, "is_encoder_decoder", False)
    if decodes_apart:  # the encoder reads an end, as in training
        prompts = [[*prompt, tokenizer.eos_token_id] for prompt in prompts]
    width = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    device = next(model.parameters()).device
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
    seen = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=seen, generation_config=settings)
    return out[:, 1 if decodes_apart else width :].tolist()  # type: ignore[no-any-return]


def _until(ids: list[int], ends: Sequence[int]) -> list[int]:
    return ids[: next((n for n, i in enumerate(ids) if i in ends), len(ids))]


def token_losses(model: Any, rows: Sequence[tuple[list[int], list[bool]]]) -> list[list[float]]:
    """Return the loss of every trained token: how much the model wonders at it, in nats.

    One row at a time, so that nothing is padded and the least memory is held.

    Args:
        model: A language model, left in the mode it was in.
        rows: Token ids of each row and which of them count, [s] each. The first is never predicted.
    """
    import torch

    was_training = model.training
    model.eval()
    found = []
    try:
        for ids, loss_mask in rows:
            with torch.no_grad():
                logits, wanted = _predictions(model, ids, loss_mask)
                losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
            found.append([float(loss) for loss in losses.tolist()])
    finally:
        model.train(was_training)
    return found


def _predictions(model: Any, ids: list[int], loss_mask: list[bool]) -> tuple[Any, Any]:
    """Return what a model expects at the trained tokens [n, vocabulary], and what stands there [n]."""
    import torch

    device = next(model.parameters()).device
    if getattr(model.config, "is_encoder_decoder", False):
        begin = loss_mask.index(True)
        given = torch.tensor([[*ids[:begin], model.config.eos_token_id]], device=device)
        wanted = torch.tensor([ids[begin:]], device=device)
        return model(input_ids=given, labels=wanted).logits[0].float(), wanted[0]
    given = torch.tensor([ids], device=device)
    places = [n for n, on in enumerate(loss_mask) if on and n > 0]
    return model(input_ids=given).logits[0, [n - 1 for n in places]].float(), given[0, places]


def in_precision(model: Any, mixed_precision: str) -> contextlib.AbstractContextManager[Any]:
    """Compute as the training does, so that base and tuned model are asked in the same numbers.

    Args:
        model: Where it lies says on which device.
        mixed_precision: bf16, fp16 or no.
    """
    import torch

    numbers = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)
    device = next(model.parameters()).device.type
    return torch.autocast(device, numbers) if numbers else contextlib.nullcontext()


@contextlib.contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Draw from a seed of one's own; afterwards all go on as if nothing had been drawn.

    Python's, NumPy's and torch's random numbers, on the CPU and on the GPUs.
    """
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
