"""The way that rows take on a GPU, with a stand-in for torch's kernel that does what it documents."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import varlen

from nbft.training.fast import attention

BEGINS = torch.tensor([0, 3, 12, 16], dtype=torch.int32)


def kernel(
    query, key, value, begins, begins_k, longest, longest_k, *, scale, window_size, enable_gqa
):
    """[s, heads, d] to [s, heads, d]: each row alone, seeing so many tokens left and right."""
    assert begins.dtype == torch.int32
    assert longest == longest_k == int(begins.diff().max())
    assert enable_gqa == (query.shape[1] != key.shape[1])
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    left, right = window_size
    found = []
    for first, end in zip(begins.tolist(), begins_k.tolist()[1:], strict=False):
        q, k, v = (part[first:end].transpose(0, 1) for part in (query, key, value))
        place = torch.arange(end - first)
        behind = place[:, None] - place
        sees = (behind >= -right) & ((left < 0) | (behind <= left))
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(~sees, float("-inf"))
        found.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(found)


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return [torch.randn(1, heads, 16, 8, requires_grad=True) for heads in (6, 2, 2)]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(attention, "_takes_varlen", lambda *_: True)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)


def attend(parts, window=None):
    found, _ = attention.attend_within_rows(
        torch.nn.Identity(),
        *parts,
        None,
        sliding_window=window,
        cu_seq_lens_q=BEGINS,
        max_length_q=9,
    )
    return [found, *torch.autograd.grad(found.float().square().sum(), parts)]


@pytest.mark.parametrize("window", [None, 4])
def test_all_rows_at_once_give_what_rows_apart_give(window, parts, monkeypatch, request):
    apart = attend(parts, window)
    request.getfixturevalue("gpu")
    at_once = attend(parts, window)
    for a, b in zip(at_once, apart, strict=True):
        torch.testing.assert_close(a, b)


def sound():
    attention._refusal.cache_clear()
    return not attention._refusal(torch.device("cpu"), torch.float32, 6, 2, 8)


def test_a_kernel_that_computes_it_is_taken(gpu):
    assert sound()


@pytest.mark.parametrize("window_size", [(-1, -1), (-1, 0), (1, 0)])
def test_a_kernel_that_sees_other_tokens_is_not_taken(window_size, gpu, monkeypatch):
    monkeypatch.setattr(
        varlen, "varlen_attn", lambda *a, **k: kernel(*a, **k | {"window_size": window_size})
    )
    assert not sound()


def test_a_kernel_with_a_wrong_gradient_is_not_taken(gpu, monkeypatch):
    def half_the_slope(*args, **keys):
        found = kernel(*args, **keys)
        return found + (found.detach() - found) * 0.5

    monkeypatch.setattr(varlen, "varlen_attn", half_the_slope)
    assert not sound()


def failing(error):
    def fail(*args, **keys):
        raise error("FlashAttention only supports Ampere GPUs or newer")

    return fail


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ImportError])
def test_without_a_kernel_rows_are_taken_apart_and_the_log_says_so(error, monkeypatch, caplog):
    monkeypatch.setattr(varlen, "varlen_attn", failing(error))
    assert not sound()
    assert "FlashAttention is not used: FlashAttention only supports Ampere" in caplog.text


def test_a_full_memory_says_nothing_of_the_kernel(monkeypatch):
    monkeypatch.setattr(varlen, "varlen_attn", failing(torch.OutOfMemoryError))
    with pytest.raises(torch.OutOfMemoryError):
        sound()


def test_it_is_tried_where_no_gradients_are_made(gpu):
    with torch.inference_mode():
        assert sound()


def test_under_autocast_all_parts_come_in_16_bits(parts, monkeypatch):
    seen = []

    def see(query, key, value, *args, **keys):
        seen.extend([query.dtype, key.dtype, value.dtype])
        return kernel(query, key, value, *args, **keys)

    monkeypatch.setattr(attention, "_takes_varlen", lambda *_: True)
    monkeypatch.setattr(varlen, "varlen_attn", see)
    query, key, value = parts
    with torch.autocast("cpu", torch.bfloat16):
        found = attend((query, key, value.bfloat16()))[0]
    assert seen == [torch.bfloat16] * 3
    assert found.dtype == torch.bfloat16


def test_keys_of_all_heads_give_the_same(parts):
    """As on a GPU that is too old for FlashAttention."""
    shared = attend(parts)[0]
    whole = attention._with_all_heads(tuple(parts))
    assert {part.shape[1] for part in whole} == {6}
    torch.testing.assert_close(attend(whole)[0], shared)


SHAPE = SimpleNamespace(num_attention_heads=6, num_key_value_heads=2, hidden_size=48)


def said_of(device: str, mixed_precision: str, dtype: torch.dtype) -> str:
    """Return what a run says of a model; no GPU is needed to try a kernel that fails."""
    attention._refusal.cache_clear()
    config = SimpleNamespace(get_text_config=lambda: SHAPE)
    model = SimpleNamespace(device=torch.device(device), dtype=dtype, config=config)
    return attention.flash_refusal(model, mixed_precision)


@pytest.mark.parametrize(
    ("device", "mixed_precision", "dtype", "is_said"),
    [
        ("cuda", "no", torch.bfloat16, True),
        ("cuda", "fp16", torch.float32, True),
        ("cuda", "no", torch.float32, False),
        ("cpu", "no", torch.bfloat16, False),
    ],
)
def test_a_run_says_why_flash_attention_is_refused(
    device, mixed_precision, dtype, is_said, monkeypatch
):
    def refuse(device, dtype, heads, key_heads, width):
        assert (heads, key_heads, width) == (6, 2, 8)
        raise RuntimeError("needs an Ampere GPU.\nException raised from ...")

    monkeypatch.setattr(attention, "_try_varlen", refuse)
    monkeypatch.setattr(attention, "_is_too_old", lambda _: False)
    said = said_of(device, mixed_precision, dtype)
    assert said == "" or said.startswith(
        "FlashAttention is not used on this GPU: needs an Ampere GPU. The attention of each row"
    )
    assert bool(said) == is_said
