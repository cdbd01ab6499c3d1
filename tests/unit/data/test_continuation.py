"""Tokenizers of each kind: a prompt and its completion are the tokens of one text."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nbft.config import Config
from nbft.data.examples import Example, load_examples
from nbft.data.tokens import encode

WORDS = "Answer : four f our The total is . Add 2 and 3 5 Name a fruit Fig Quince".split()
LETTERS = sorted({*"".join(WORDS), *"<|user|>assistn\n:?!", "▁"})


def merges_of(words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary in which each word is built letter by letter."""
    vocabulary = {token: n for n, token in enumerate(["<s>", "</s>", "<unk>", *LETTERS])}
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            if "".join(pair) not in vocabulary:
                vocabulary["".join(pair)] = len(vocabulary)
                merges.append(pair)
    return vocabulary, merges


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def metaspace(scheme: str) -> PreTrainedTokenizerFast:
    """As newer conversions of SentencePiece."""
    vocabulary, merges = merges_of([f"▁{word}" for word in WORDS] + WORDS)
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return wrapped(backend)


def llama() -> PreTrainedTokenizerFast:
    """As Llama 2: a normalizer puts the space, a start and an end stand around each text."""
    vocabulary, merges = merges_of([f"▁{word}" for word in WORDS] + WORDS)
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    ends = [("<s>", 0), ("</s>", 1)]
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=ends)
    return wrapped(backend)


def byte_level(*, add_prefix_space: bool) -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: n for n, token in enumerate(["<s>", "</s>", "<unk>", *alphabet])}
    merges = []
    for word in [*(f"Ġ{word}" for word in WORDS), *WORDS]:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                vocabulary[word[:end]] = len(vocabulary)
                merges.append((word[: end - 1], word[end - 1]))
    backend = Tokenizer(models.BPE(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    return wrapped(backend)


def word_piece() -> PreTrainedTokenizerFast:
    tokens = [*WORDS, *(f"##{letter}" for letter in LETTERS), *LETTERS]
    named = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *dict.fromkeys(tokens)]
    vocabulary = {token: n for n, token in enumerate(named)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )


KINDS = {
    "byte-level": lambda: byte_level(add_prefix_space=False),
    "byte-level with a space": lambda: byte_level(add_prefix_space=True),
    "Metaspace always": lambda: metaspace("always"),
    "Metaspace first": lambda: metaspace("first"),
    "Metaspace never": lambda: metaspace("never"),
    "Llama 2": llama,
    "WordPiece": word_piece,
}
WHOLE = [("Answer: ", "four"), ("Answer:", " four"), ("Add 2 and 3. ", "The total is 5.")]


def plain_ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def end_of(tokenizer) -> int:
    return tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id


@pytest.fixture(params=KINDS)
def tokenizer(request):
    return KINDS[request.param]()


@pytest.mark.parametrize(("prompt", "completion"), [*WHOLE, ("Answer: f", "our"), ("", "four")])
def test_prompt_and_completion_are_one_text_with_one_end(tokenizer, prompt, completion):
    (one,) = encode([Example(prompt, completion)], tokenizer)
    end = end_of(tokenizer)
    assert one.ids.count(end) == 1
    assert one.ids[-1] == end
    assert one.loss_mask[-1]

    def text(ids):
        return tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    whole = plain_ids(tokenizer, prompt + completion)
    kept = [i for i in one.ids if i not in tokenizer.all_special_ids]
    assert text(kept) == text(whole)
    if not one.is_merged:
        assert kept == whole


@pytest.mark.parametrize(
    "kind", ["byte-level", "Metaspace always", "Metaspace first", "Metaspace never", "Llama 2"]
)
def test_a_token_never_holds_both(kind):
    tokenizer = KINDS[kind]()
    (one,) = encode([Example("Answer: f", "our")], tokenizer)
    trained = [i for i, on in zip(one.ids, one.loss_mask, strict=True) if on]
    assert tokenizer.convert_ids_to_tokens(trained) == ["our", "</s>"]
    prompt = one.ids[: one.prompt_tokens]
    asked = [i for i in tokenizer("Answer: f")["input_ids"] if i != tokenizer.eos_token_id]
    assert prompt == asked, "as the model will be asked"


@pytest.mark.parametrize("end", ["</s>", ""])
def test_an_end_that_is_written_already_is_not_doubled(end):
    tokenizer = byte_level(add_prefix_space=False)
    (one,) = encode([Example("Answer: ", f"four{end}")], tokenizer)
    assert one.ids.count(tokenizer.eos_token_id) == 1


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>\n{{ m.content }}\n{% else %}"
    "<|assistant|>\n{{ m.content }}</s>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "WordPiece"])
def test_a_conversation_is_one_text(kind):
    tokenizer = KINDS[kind]()
    tokenizer.chat_template = TEMPLATE
    turns = [("user", "Name a fruit."), ("assistant", "Fig"), ("user", "And?"), ("assistant", "a")]
    messages = [{"role": role, "content": text} for role, text in turns]
    (example,) = load_examples(
        Config(data={"rows": [{"messages": messages}], "split_ratio": 1}), "train"
    )[0]
    (one,) = encode([example], tokenizer)
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert one.ids == plain_ids(tokenizer, text)
    trained = [i for i, on in zip(one.ids, one.loss_mask, strict=True) if on]
    end = tokenizer.eos_token_id
    assert trained.count(end) == 2
    decoded = tokenizer.decode([i for i in trained if i != end], clean_up_tokenization_spaces=False)
    assert decoded.replace(" ", "") == "Figa"
