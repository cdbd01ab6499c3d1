"""Which tokens are learnt, counted by hand on a tiny tokenizer."""

import copy
import random

import pytest

from nbft.config import Config
from nbft.data import processes
from nbft.data.examples import Example
from nbft.data.tokens import IGNORE_INDEX, cut_to, encode, remarks, tokenise
from nbft.errors import DataError


def config_of(**data):
    return Config(data={"dataset_name": "alpaca", **data})


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return copy.deepcopy(tiny_tokenizer)


def learnt_text(tokenised, tokenizer, row=0):
    return tokenizer.decode([t for t in tokenised.labels[row] if t != IGNORE_INDEX])


def test_the_completion_and_the_end_are_learnt_and_the_prompt_is_not(tokenizer):
    done = tokenise([Example("Add 1 and 2.\n", "3 it is")], tokenizer, config_of())
    assert tokenizer.decode(done.input_ids[0]) == "Add 1 and 2.\n3 it is<|end|>"
    assert learnt_text(done, tokenizer) == "3 it is<|end|>"
    assert tokenizer.decode(done.prompt_ids[0]) == "Add 1 and 2.\n"
    assert done.input_ids[0][-1] == done.labels[0][-1] == tokenizer.eos_token_id
    masked = sum(label == IGNORE_INDEX for label in done.labels[0])
    assert masked == len(done.prompt_ids[0])
    assert done.tokens == len(done.input_ids[0])
    assert done.trained_tokens == done.tokens - masked


def test_the_prompt_is_trained_too_when_asked_for(tokenizer):
    config = config_of(completion_only_loss=False)
    done = tokenise([Example("Add 1.\n", "2")], tokenizer, config)
    assert done.labels == done.input_ids
    assert tokenizer.decode(done.prompt_ids[0]) == "Add 1.\n"
    assert done.trained_tokens == done.tokens - 1, "nothing predicts the first token"


def _merging_pair(tokenizer):
    """Return a prompt and a completion that together have a token across their boundary."""
    for word in (" the", "Response", "Instruction", " number", " answer"):
        for cut in range(1, len(word)):
            prompt, completion = "So" + word[:cut], word[cut:]
            before = tokenizer(prompt)["input_ids"]
            if tokenizer(prompt + completion)["input_ids"][: len(before)] != before:
                return prompt, completion
    raise AssertionError("the tiny tokenizer merges nothing")


def test_no_token_crosses_the_boundary(tokenizer):
    prompt, completion = _merging_pair(tokenizer)
    done = tokenise([Example(prompt, completion)], tokenizer, config_of())
    assert done.merged == 1
    assert done.prompt_ids[0] == tokenizer(prompt)["input_ids"]
    assert tokenizer.decode(done.input_ids[0]) == prompt + completion + "<|end|>"
    assert learnt_text(done, tokenizer) == completion + "<|end|>"
    clean = tokenise([Example("Add.\n", "3")], tokenizer, config_of())
    assert clean.merged == 0


def test_a_tokenizer_that_adds_a_start_and_an_end_gives_each_once(tokenizer):
    from tokenizers.processors import TemplateProcessing

    start, end = tokenizer.convert_tokens_to_ids(["<|start|>", "<|end|>"])
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A <|end|>",
        special_tokens=[("<|start|>", start), ("<|end|>", end)],
    )
    done = tokenise([Example("Add.\n", "3")], tokenizer, config_of())
    assert tokenizer.decode(done.input_ids[0]) == "<|start|>Add.\n3<|end|>"
    assert learnt_text(done, tokenizer) == "3<|end|>"


def test_a_tokenizer_whose_start_is_its_end_loses_nothing(tokenizer):
    from tokenizers.processors import TemplateProcessing

    end = tokenizer.eos_token_id
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", end)]
    )
    done = tokenise([Example("Add.\n", "3")], tokenizer, config_of())
    assert tokenizer.decode(done.input_ids[0]) == "<|end|>Add.\n3<|end|>"


CHAT = Example(
    messages=(
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "See you."},
    )
)


def test_every_answer_of_a_conversation_is_trained_and_nothing_else(tokenizer):
    done = tokenise([CHAT], tokenizer, config_of())
    whole = tokenizer.apply_chat_template(list(CHAT.messages), tokenize=False)
    assert tokenizer.decode(done.input_ids[0]) == whole
    assert learnt_text(done, tokenizer) == "Hello!<|end|>See you.<|end|>"
    prompt = tokenizer.apply_chat_template(
        list(CHAT.messages[:2]), tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(done.prompt_ids[0]) == prompt


def test_what_follows_the_last_answer_is_left_out(tokenizer):
    done = tokenise([Example(messages=CHAT.messages[:4]), CHAT], tokenizer, config_of())
    assert "Bye" not in tokenizer.decode(done.input_ids[0])
    assert done.unanswered == 1
    assert remarks(done, config_of(), "train") == [
        (
            "train: 1 of 2 conversations go on after their last answer; those turns are left out, "
            "because they have nothing to train on."
        )
    ]


def test_a_conversation_that_begins_with_an_answer_is_understood(tokenizer):
    """One that greets first."""
    done = tokenise([Example(messages=CHAT.messages[2:])], tokenizer, config_of())
    assert learnt_text(done, tokenizer) == "Hello!<|end|>See you.<|end|>"


def test_answers_that_are_only_read_leave_nothing_to_learn(tokenizer):
    read = tuple({**m, "trained": False} for m in CHAT.messages)
    done = tokenise([Example(messages=read), CHAT], tokenizer, config_of())
    assert (len(done), done.empty) == (1, 1)


def _one_at_a_time(example, tokenizer):
    """Return (ids, learnt) of a conversation as chat templates are usually asked."""
    ids, learnt, done = [], [], ""
    for end, turn in enumerate(example.messages):
        if turn["role"] != "assistant":
            continue
        asked = tokenizer.apply_chat_template(
            list(example.messages[:end]), tokenize=False, add_generation_prompt=True
        )
        answered = tokenizer.apply_chat_template(list(example.messages[: end + 1]), tokenize=False)
        reply = answered[len(asked) :]
        end = len(reply) - reply.endswith("<|end|>\n")  # the model stops before the line break
        texts = (asked[len(done) :], False), (reply[:end], True)
        done = asked + reply[:end]
        for text, on in texts:
            piece = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids += piece
            learnt += [on] * len(piece)
    rest = tokenizer(answered[len(done) :], add_special_tokens=False)["input_ids"]
    return ids + rest, learnt + [False] * len(rest)


def _plain_one_at_a_time(example, tokenizer):
    prompt = tokenizer(example.prompt)["input_ids"]
    whole = tokenizer(example.prompt + example.completion)["input_ids"]
    rest = whole[len(prompt) :]
    if whole[: len(prompt)] != prompt:
        rest = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
    ids = [*prompt, *rest, tokenizer.eos_token_id]
    return ids, [n >= len(prompt) for n in range(len(ids))]


def _random_rows(draw):
    def text():
        letters = "abc XYZ.\n\t7'é語\u0301🙂"
        return "".join(draw.choices(letters, k=draw.randrange(30)))

    def conversation():
        turns = [(draw.choice(["user", "assistant"]), text()) for _ in range(draw.randrange(6))]
        turns = [("user", "Hi"), *turns, ("assistant", text())]
        return tuple({"role": role, "content": text} for role, text in turns)

    return [
        draw.choice([lambda: Example(text(), text()), lambda: Example(messages=conversation())])()
        for _ in range(draw.randrange(1, 9))
    ]


@pytest.mark.parametrize("seed", range(40))
def test_rows_cut_together_are_cut_as_each_alone(tokenizer, seed):
    draw = random.Random(seed)
    rows, max_length = _random_rows(draw), draw.randrange(8, 60)
    encoded = encode(rows, tokenizer)
    expected = [
        (_one_at_a_time if row.messages else _plain_one_at_a_time)(row, tokenizer) for row in rows
    ]
    assert [(one.ids, one.loss_mask) for one in encoded] == expected
    kept = [cut_to(one, max_length) for one in encoded]
    if not any(kept):
        return
    done = tokenise(rows, tokenizer, config_of(max_length=max_length))
    assert list(zip(done.input_ids, done.labels, strict=True)) == [one for one in kept if one]
    assert list(done.dataset["example"]) == [n for n, one in enumerate(kept) if one]
    labels = [label for row in done.labels for label in row[1:]]
    assert done.trained_tokens == sum(label != IGNORE_INDEX for label in labels)
    assert done.tokens == sum(map(len, done.input_ids))
    assert done.longest == max(map(len, done.input_ids))
    is_cut = [len(one.ids) > max_length for one in encoded]
    assert done.cut == sum(cut and kept is not None for cut, kept in zip(is_cut, kept, strict=True))
    assert done.cut + done.left_out == sum(is_cut)
    assert done.cut + done.left_out + done.empty <= len(rows)
    assert len(done) + done.left_out + done.empty == len(rows)


def test_a_template_without_an_end_gains_one(tokenizer):
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %}assistant: {% endif %}"
    done = tokenise([CHAT], tokenizer, config_of())
    assert done.labels[0][-1] == tokenizer.eos_token_id
    assert learnt_text(done, tokenizer) == "Hello!\nSee you.\n<|end|>"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            None,
            (
                'data.train: has "messages", but the model has no chat template. Choose an instruct '
                "model, set model.chat_template_path, or give prompt and completion."
            ),
        ),
        (
            "{{ raise_exception('no system') }}",
            (
                "data.train: row 1: the chat template refuses the "
                "messages (no system). Roles are usually system, user, assistant, by turns."
            ),
        ),
        (
            "{{ messages | length }}",
            (
                "data.train: row 1: the chat template refuses the messages (it writes an answer "
                "differently from how it asks for one). Roles are usually system, user, assistant, "
                "by turns."
            ),
        ),
    ],
)
def test_the_words_of_a_chat_template_that_does_not_fit(tokenizer, template, said):
    tokenizer.chat_template = template
    with pytest.raises(DataError) as caught:
        tokenise([CHAT], tokenizer, config_of())
    assert str(caught.value) == said


def test_of_many_conversations_the_one_that_is_refused_is_named(tokenizer):
    refusal = "{% for m in messages %}{% if m.content == 'No' %}{{ raise_exception('no No') }}"
    tokenizer.chat_template = f"{refusal}{{% endif %}}{{% endfor %}}{tokenizer.chat_template}"
    bad = Example(messages=({"role": "user", "content": "No"}, CHAT.messages[2]))
    with pytest.raises(DataError) as caught:
        tokenise([CHAT, CHAT, bad, CHAT], tokenizer, config_of())
    assert "row 3: the chat template refuses the messages (no No)." in str(caught.value)


def _length(example, tokenizer):
    return tokenise([example], tokenizer, config_of()).tokens


def test_rows_are_cut_left_out_and_counted(tokenizer):
    short, long_answer = Example("Hi\n", "3"), Example("Hi\n", "word " * 60)
    long_prompt, empty = Example("word " * 60, "3"), Example("", "")
    examples = [short, long_answer, long_prompt, empty]
    config = config_of(max_length=20)
    done = tokenise(examples, tokenizer, config)
    assert (done.cut, done.left_out, done.empty) == (1, 1, 1)
    assert len(done.input_ids) == len(done.labels) == len(done.prompt_ids) == 2
    assert max(map(len, done.input_ids)) == 20
    assert done.labels[1][-1] != tokenizer.eos_token_id
    assert remarks(done, config, "train") == [
        (
            "train: 1 of 4 rows are left out: their prompt alone fills data.max_length=20, so they "
            "have nothing to train on."
        ),
        "train: 1 of 4 rows are left out: they are empty.",
        (
            "train: 1 of 4 rows lose their end at data.max_length=20; the model does not learn to stop "
            "there."
        ),
    ]


def test_nothing_is_said_when_nothing_happened(tokenizer):
    done = tokenise([Example("Hi\n", "3")], tokenizer, config_of())
    assert remarks(done, config_of(), "train") == []


def test_a_limit_that_cuts_every_completion_says_the_length_that_would_do(tokenizer):
    examples = [Example("word " * (10 + n), "three") for n in range(40)]
    config = config_of(max_length=8)
    with pytest.raises(DataError) as caught:
        tokenise(examples, tokenizer, config)
    (problem,) = caught.value.problems
    lengths = sorted(_length(example, tokenizer) for example in examples)
    enough = problem.changes["data.max_length"]
    kept = sum(length <= enough for length in lengths) / len(lengths)
    assert kept >= 0.99
    assert str(problem) == (
        "data.max_length=8: cuts every completion away: nothing is left to train on in 40 train rows. "
        f"{lengths[37]} keep 95% whole, {enough} keep 99% whole; the longest has {lengths[-1]} "
        f"tokens. Use {enough}."
    )
    mended = tokenise(examples, tokenizer, config.apply(problem.changes))
    assert len(mended.input_ids) >= 38


def test_tokens_are_cut_once_and_kept_by_content(tokenizer, monkeypatch):
    from nbft.data import tokens

    examples = [Example(f"Kept {n}\n", "3") for n in range(3)]
    first = tokenise(examples, tokenizer, config_of())
    calls = []
    monkeypatch.setattr(tokens, "encode", lambda *a, **k: calls.append(a) or [])
    again = tokenise(examples, tokenizer, config_of())
    assert not calls
    assert list(again.input_ids) == list(first.input_ids)
    assert again.trained_tokens == first.trained_tokens
    for other in (
        (examples[:2], config_of()),
        ([*examples[:2], Example("Kept 2\n", "4")], config_of()),
        (examples, config_of(max_length=20)),
        (examples, config_of(completion_only_loss=False)),
    ):
        with pytest.raises(DataError):  # nothing was cut: it was not taken from what is kept
            tokenise(other[0], tokenizer, other[1])
    assert len(calls) == 4


def test_what_is_kept_does_not_grow_for_ever(tokenizer, monkeypatch):
    from nbft.data import tokens
    from nbft.models.find import cache_folder

    tokenise([Example("Old\n", "1")], tokenizer, config_of())
    monkeypatch.setattr(tokens, "CACHE_BYTES", 1)
    tokenise([Example("New\n", "1")], tokenizer, config_of())
    assert len(list((cache_folder() / "tokens").iterdir())) == 1


def test_several_processes_cut_the_same_tokens(tokenizer, monkeypatch):
    started, imap = [], processes.imap
    monkeypatch.setattr(
        processes, "imap", lambda work, items, n: started.append(n) or imap(work, items, n)
    )
    examples = [Example(f"Many {n}\n", "3") for n in range(2500)]
    alone = tokenise(examples, tokenizer, config_of(dataset_num_proc=1))
    found = list(alone.input_ids)
    assert started == []
    import shutil

    from nbft.models.find import cache_folder

    shutil.rmtree(cache_folder() / "tokens")
    together = tokenise(examples, tokenizer, config_of(dataset_num_proc=2))
    assert started == [2]
    assert list(together.input_ids) == found
