"""A chat without its page, on a tiny random model: what is asked, written, stopped and kept."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

import nbft
from nbft import queue
from nbft.errors import ConfigError, DataError, RunError
from nbft.runs import ask as asking
from nbft.runs import chat as chatting
from nbft.runs import folder as folders
from nbft.runs import sides
from nbft.runs.chat import ChatSession
from nbft.runs.checkpoints import mark_whole

ROWS = [
    {"question": "two plus two", "answer": "four"},
    {"question": "one plus one", "answer": "two"},
]
MESSAGES = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
]


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch):
    monkeypatch.setattr(chatting, "_PACE_SECONDS", 0.0)
    yield
    nbft.release_model()


@pytest.fixture
def config(tiny_model, tmp_path):
    return nbft.Config(
        model={"model_name": str(tiny_model)},
        data={
            "rows": ROWS * 4,
            "prompt_template": "Q: {question}\nA: ",
            "completion_template": "{answer}",
        },
        training={"output_dir": str(tmp_path / "runs"), "run_name": "old-otter-1"},
    )


def save_adapter(model: Path, folder: Path, seed: int, **lora: Any) -> None:
    """Save a random adapter that changes what the model says."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model)
    lora = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **lora}
    about = peft.LoraConfig(task_type="CAUSAL_LM", **lora)
    peft.get_peft_model(base, about).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)


@pytest.fixture
def make(config, tiny_model):
    """Return a function that makes a run with an adapter, without any training."""

    def make_run(seed: int = 1, checkpoints: tuple[int, ...] = (), **changes: Any) -> nbft.Run:
        run = nbft.Run.create(config.apply(changes) if changes else config)
        save_adapter(tiny_model, run.path / "adapter", seed)
        for step in checkpoints:
            folder = run.path / "checkpoints" / f"checkpoint-{step}"
            save_adapter(tiny_model, folder, seed=step)
            mark_whole(folder)
        return run

    return make_run


@pytest.fixture
def run(make):
    return make()


@pytest.fixture
def bases(monkeypatch):
    """Return the list of base models that are loaded, in order."""
    loaded = []
    real = folders.load_base

    def load_base(config, *arguments, **more):
        loaded.append(config.model.model_name)
        return real(config, *arguments, **more)

    for module in (folders, asking, sides):
        monkeypatch.setattr(module, "load_base", load_base)
    return loaded


def test_the_pieces_of_an_answer_join_to_the_greedy_one(run, config):
    written: dict[int, list[str]] = {0: [], 1: []}
    chat = ChatSession(run, template="text", max_new_tokens=12)
    turn = chat.ask("Say hi.", lambda _, reply: written[reply.side].append(reply.text))
    base, tuned = turn.replies
    assert [base.text] == nbft.ask(config, "Say hi.", max_new_tokens=12)
    assert [tuned.text] == nbft.ask(run, "Say hi.", max_new_tokens=12)
    assert base.text != tuned.text
    for reply in turn.replies:
        pieces = written[reply.side]
        assert pieces[-1] == reply.text
        assert len(pieces) > 5, "it is handed over while it is written"
        for before, after in zip(pieces, pieces[1:], strict=False):
            assert after.startswith(before)
        assert (reply.tokens, reply.end) == (12, "length")


def test_a_message_is_asked_as_the_rows_that_the_run_was_trained_on(run, make):
    chat = ChatSession(run, max_new_tokens=3)
    turn = chat.ask("three plus three")
    assert chat.template == "rows"
    assert {reply.prompt for reply in turn.replies} == {"Q: three plus three\nA: "}
    (wanted,) = nbft.ask(run, {"question": "three plus three"}, max_new_tokens=3)
    assert turn.replies[1].text == wanted
    assert chat.ways["rows"] == "like its rows: Q: … ⏎ A:"

    talks = {"data": {"rows": MESSAGES * 4}, "training.run_name": "talks"}
    chat = ChatSession(make(**talks), max_new_tokens=3)
    turn = chat.ask("Bye")
    assert chat.template == "chat"
    assert "rows" not in chat.ways
    assert turn.replies[0].prompt == "<|start|>user\nBye<|end|>\n<|start|>assistant\n"


def test_each_side_has_its_own_history_and_the_system_turn_comes_first(run):
    chat = ChatSession(run, template="chat", system="Be brief.", max_new_tokens=4)
    first = chat.ask("Hi")
    second = chat.ask("And you?")
    for side in (0, 1):
        answer = first.reply_of(side).text
        assert second.reply_of(side).prompt == (
            "<|start|>system\nBe brief.<|end|>\n<|start|>user\nHi<|end|>\n"
            f"<|start|>assistant\n{answer}<|end|>\n<|start|>user\nAnd you?<|end|>\n"
            "<|start|>assistant\n"
        )
    assert first.replies[0].text != first.replies[1].text
    again = chat.regenerate()
    assert [turn.message for turn in chat.turns] == ["Hi", "And you?"]
    assert chat.turns[1] is again
    assert [reply.text for reply in again.replies] == [reply.text for reply in second.replies]
    chat.clear()
    assert "Hi" not in chat.ask("Alone").replies[0].prompt


def test_other_chat_templates_can_be_tried(run):
    turn = ChatSession(run, template="chatml", max_new_tokens=2).ask("Hi")
    assert turn.replies[0].prompt.startswith("<|im_start|>user\nHi<|im_end|>")
    assert turn.replies[1].turns == [{"role": "user", "content": "Hi"}]


def test_stopping_ends_the_answer_after_the_token_and_leaves_the_other_out(run):
    chat = ChatSession(run, template="text", max_new_tokens=200)

    def take(_turn, reply):
        if reply.tokens == 5:
            chat.stop()

    turn = chat.ask("Say hi.", take)
    left, right = turn.replies
    assert (left.end, left.tokens) == ("stopped", 5)
    assert (right.end, right.tokens, right.text) == ("stopped", 0, "")
    assert turn.is_answered
    assert chat.ask("Say hi.", lambda *_: None).replies[0].end == "length", (
        "it is not stopped again"
    )


def test_another_thread_can_stop_it(run):
    chat = ChatSession(run, template="text", max_new_tokens=800)
    begun = threading.Event()
    turns = []

    def ask():
        turns.append(chat.ask("Say hi.", lambda _, reply: reply.tokens and begun.set()))

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(60)
    chat.stop()
    thread.join(60)
    assert turns[0].replies[0].end == "stopped"
    assert turns[0].replies[0].tokens < 800


def test_an_answer_ends_at_a_stop_text_which_is_no_part_of_it(run):
    chat = ChatSession(run, template="text", max_new_tokens=24)
    whole = chat.ask("Say hi.").replies[1].text
    stop = whole[len(whole) // 2 :][:3]
    chat.settings = chat.settings.changed({"stop": [stop]})
    turn = chat.regenerate()
    assert turn.replies[1].text == whole[: whole.index(stop)].rstrip()
    assert turn.replies[1].end == "stop"
    assert turn.replies[1].tokens < 24


def test_tokens_are_drawn_without_the_random_numbers_of_a_training(run):
    import torch

    chat = ChatSession(run, template="text", temperature=1.5, max_new_tokens=12)
    chat.load()
    before = torch.get_rng_state()
    texts = {chat.ask("Say hi.").replies[0].text for _ in range(3)}
    assert len(texts) > 1
    assert torch.equal(torch.get_rng_state(), before)
    chat.settings = chat.settings.changed({"top_p": 1e-5})
    almost = {chat.ask("Say hi.").replies[0].text for _ in range(2)}
    greedy = ChatSession(run, template="text", max_new_tokens=12).ask("Say hi.").replies[0].text
    assert almost == {greedy}, "only the most likely token is left to draw from"


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_ratings_are_pairs_that_dpo_reads(run, config):
    chat = ChatSession(run, template="chat", system="Be brief.", max_new_tokens=4)
    chat.ask("Hi")
    chat.ask("And you?")
    left, right = chat.turns[1].replies
    chat.rate(1, "right")
    assert chat.turns[1].rating == "right"
    (row,) = read(run.path / "preferences.jsonl")
    assert row == {
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": chat.turns[0].reply_of(1).text},
            {"role": "user", "content": "And you?"},
        ],
        "chosen": [{"role": "assistant", "content": right.text}],
        "rejected": [{"role": "assistant", "content": left.text}],
        "chosen_model": "old-otter-1",
        "rejected_model": "base model",
    }
    chat.settings = chat.settings.changed({"template": "rows"})
    chat.ask("three plus three")
    chat.turns[2].replies[0].text = "Six."  # the tiny model writes a space
    chat.rate(2, "left")
    rows = read(chat.preferences)
    assert rows[1]["prompt"] == "Q: three plus three\nA: "
    assert rows[1]["chosen_model"] == "base model"

    learns = nbft.Config(
        model={"model_name": config.model.model_name},
        data={"path": str(chat.preferences), "split_ratio": 1.0},
        training={"method": "dpo"},
        evaluation={"eval_strategy": "no"},
    )
    talk, text = nbft.examples(learns)
    assert {talk.kind, text.kind} == {"preference"}
    assert talk.messages[-1]["content"] == right.text
    assert talk.rejected[-1]["content"] == left.text
    assert (text.prompt, text.completion) == (rows[1]["prompt"], rows[1]["chosen"])
    assert "recognised as preference pairs" in " ".join(nbft.examples(learns).recognised)
    assert nbft.make_plan(learns).errors == []


def test_a_rating_can_be_changed_and_a_tie_teaches_nothing(run):
    chat = ChatSession(run, template="text", max_new_tokens=4)
    chat.ask("Say hi.")
    chat.ask("Say no.")
    chat.rate(0, "left")
    chat.rate(1, "left")
    chat.rate(0, "right")
    rows = read(chat.preferences)
    assert [(row["prompt"], row["chosen_model"]) for row in rows] == [
        ("Say no.", "base model"),
        ("Say hi.", "old-otter-1"),
    ]
    chat.rate(0, "tie")
    assert [row["prompt"] for row in read(chat.preferences)] == ["Say no."]
    (tie,) = read(run.path / "ties.jsonl")
    assert tie["texts"] == [reply.text for reply in chat.turns[0].replies]
    assert chat.counts() == (1, 1)
    assert ChatSession(run).counts() == (1, 1), "those of earlier chats"
    assert (run.path / "preferences.jsonl").stat().st_mode & 0o077 == 0


def test_what_cannot_be_rated_is_said(run):
    chat = ChatSession(run, template="text", max_new_tokens=4)
    chat.ask("Say hi.", lambda *_: chat.stop())
    with pytest.raises(RunError, match="Both answers are the same, so neither is better"):
        chat.rate(0, "left")
    chat.rate(0, "tie")
    with pytest.raises(ConfigError, match="choice='up': is not one of left, right, tie"):
        chat.rate(0, "up")
    with pytest.raises(ConfigError, match="number=4: is no message of this conversation"):
        chat.rate(4, "left")
    chat.turns[0].replies[1].text = "Hi."
    with pytest.raises(RunError, match="This answer is empty, so there is nothing to learn"):
        chat.rate(0, "left")
    assert not chat.preferences.exists()


def test_sides_are_shuffled_and_unnamed_until_they_are_rated(run):
    chat = ChatSession(run, template="text", max_new_tokens=2, is_blind=True)
    orders = {tuple(reply.side for reply in chat.ask("Say hi.").replies) for _ in range(20)}
    assert orders == {(0, 1), (1, 0)}
    number = next(n for n, turn in enumerate(chat.turns) if turn.replies[0].side == 1)
    assert chat.turns[number].is_blind
    chat.rate(number, "left")
    assert not chat.turns[number].is_blind
    assert read(chat.preferences)[0]["chosen_model"] == "old-otter-1"


def test_any_checkpoint_of_a_run_can_be_talked_to(make):
    run = make(checkpoints=(20, 40))
    chat = ChatSession(run, checkpoint=20, template="text", max_new_tokens=8)
    assert [side.title for side in chat.sides] == [
        *("base model", "step 20", "step 40", "old-otter-1"),
    ]
    other = make(seed=20, **{"training.run_name": "twenty"})
    answer = chat.ask("Say hi.").replies[1]
    assert answer.title == "step 20"
    assert [answer.text] == nbft.ask(other, "Say hi.", max_new_tokens=8)

    chat.choose("step 40", "old-otter-1")
    assert chat.turns == [], "their answers are not those of others"
    turn = chat.ask("Say hi.")
    assert [turn.replies[1].text] == nbft.ask(run, "Say hi.", max_new_tokens=8)
    assert turn.replies[0].text not in (answer.text, turn.replies[1].text)
    between = ChatSession(run, against=40, template="text", max_new_tokens=8).ask("Say hi.")
    assert [r.text for r in between.replies] == [r.text for r in turn.replies]


def test_two_runs_can_be_talked_to(make):
    first = make(seed=1, **{"training.run_name": "first"})
    second = make(seed=2, **{"training.run_name": "second"})
    for against in (first, "first", first.path):
        chat = ChatSession(second, against=against, template="text", max_new_tokens=8)
        assert [side.title for side in chat.chosen] == ["first", "second"]
    turn = chat.ask("Say hi.")
    assert [turn.replies[0].text] == nbft.ask(first, "Say hi.", max_new_tokens=8)
    assert [turn.replies[1].text] == nbft.ask(second, "Say hi.", max_new_tokens=8)


def test_one_copy_of_the_weights_answers_for_both_sides(make, bases):
    run = make(checkpoints=(20,))
    chat = ChatSession(run, template="text", max_new_tokens=2)
    assert chat.load()[0].startswith("One copy of the weights answers for both sides (about ")
    chat.ask("a")
    chat.ask("b")
    nbft.ask(run, "a", max_new_tokens=1)
    assert len(bases) == 1, "base and tuned, and nbft.ask, share it"
    assert asking._beside is None

    chat.choose("step 20", "old-otter-1")
    assert chat.load()[0].startswith("One copy")
    chat.ask("a")
    assert len(bases) == 2
    assert asking._beside is None
    other = make(seed=3, **{"training.run_name": "other"})
    two_runs = ChatSession(other, against=run, template="text", max_new_tokens=2)
    assert two_runs.load()[0].startswith("One copy")


def test_an_adapter_that_cannot_be_switched_off_needs_a_second_copy(
    make, tiny_model, bases, config
):
    run = make()
    save_adapter(tiny_model, run.path / "adapter", 1, bias="all")
    chat = ChatSession(run, template="text", max_new_tokens=4)
    assert chat.load()[0].startswith("Two models are needed, as the sides cannot share")
    assert len(bases) == 2
    assert asking._beside is not None
    answer = chat.ask("Say hi.").replies[0].text
    assert len(bases) == 2
    chat.choose("old-otter-1", "base model")
    assert chat.ask("Say hi.").replies[1].text == answer
    assert [answer] == nbft.ask(config, "Say hi.", max_new_tokens=4)
    nbft.release_model()
    assert (asking._kept, asking._beside) == (None, None)


def test_a_run_that_trained_all_weights_needs_two_models_and_says_so(config, tiny_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = nbft.Run.create(config.apply({"peft.method": "full"}))
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) / 10)
    model.save_pretrained(run.path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(run.path / "model")
    chat = ChatSession(run, template="text", max_new_tokens=6)
    said = chat.load()[0]
    assert said.startswith("Two models are needed, as old-otter-1 has trained all weights (about ")
    turn = chat.ask("Say hi.")
    assert turn.replies[0].text != turn.replies[1].text
    assert [turn.replies[0].text] == nbft.ask(config, "Say hi.", max_new_tokens=6)
    assert [turn.replies[1].text] == nbft.ask(run, "Say hi.", max_new_tokens=6)


def test_without_memory_it_is_refused_with_the_numbers(run, make, monkeypatch):
    monkeypatch.setattr(sides, "free_memory_bytes", lambda _: 2**10)
    with pytest.raises(
        RunError,
        match=r"The chat needs about .* [KM]iB, and this machine has 1.0 KiB free\. "
        r"Close what else needs memory\.",
    ):
        ChatSession(run, template="text").load()
    monkeypatch.setattr(sides, "free_memory_bytes", lambda _: 2**32)
    other = make(**{"training.run_name": "busy-bee-2"})
    monkeypatch.setattr(sides, "training_beside", lambda _: (other, 2**32 - 2**10))
    with pytest.raises(
        RunError,
        match=r"has 4.0 GiB free, of which run “busy-bee-2”, which is training, will need "
        r"4.0 GiB\. Wait until the run is over, or stop it\.",
    ):
        ChatSession(run, template="text").load()
    monkeypatch.setattr(sides, "training_beside", lambda _: (other, 0))
    said = ChatSession(run, template="text").load()
    assert "Run “busy-bee-2” is training on the same device: both are slower." in said
    monkeypatch.setattr(sides, "free_memory_bytes", lambda _: 0)
    assert ChatSession(run, template="text").load(), "what is there already needs no more memory"


def test_the_run_that_trains_is_found_by_its_ticket(run, tmp_path, monkeypatch):
    from nbft import events

    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path / "queue"))
    assert sides.training_beside("cpu") == (None, 0)
    ticket = queue.Ticket("cpu", run.path)
    assert queue.holder("cpu") is None, "it waits"
    assert ticket.take() is None
    assert queue.holder("cpu") == run.path
    events.append(run.events_path, "prepared", planned_bytes=3 * 2**30)
    events.append(run.events_path, "log", step=1, memory_bytes=2**30)
    found, reserved = sides.training_beside("cpu")
    assert (found.path, reserved) == (run.path, 2 * 2**30)
    ticket.release()
    assert queue.holder("cpu") is None


def test_a_model_without_a_chat_template_is_asked_plainly_and_it_is_said(
    make, tmp_path, tiny_model
):
    import shutil

    plain = tmp_path / "plain"
    shutil.copytree(tiny_model, plain)
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    about = json.loads((plain / "tokenizer_config.json").read_text())
    about.pop("chat_template", None)
    (plain / "tokenizer_config.json").write_text(json.dumps(about))
    texts = {"rows": [{"text": "Once upon a time."}] * 8, "prompt_template": None}
    run = make(**{"data": texts, "model.model_name": str(plain)})
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (run.path / "adapter" / name).unlink(missing_ok=True)
        if (plain / name).is_file():
            shutil.copy(plain / name, run.path / "adapter" / name)
    chat = ChatSession(run, max_new_tokens=2)
    said = chat.load()
    assert said[-1] == "The model has no chat template: each message is asked alone, as plain text."
    assert "chat" not in chat.ways
    assert chat.ask("Once").replies[0].prompt == "Once"
    with pytest.raises(ConfigError, match="template='chat': cannot be used: the model has no chat"):
        ChatSession(run, template="chat").load()


def test_what_cannot_be_talked_to_is_one_sentence(make, config, tiny_model):
    run = nbft.Run.create(config)
    with pytest.raises(RunError, match=r"^old-otter-1: has no adapter yet; it is created\.$"):
        ChatSession(run)
    folder = run.path / "checkpoints" / "checkpoint-20"
    save_adapter(tiny_model, folder, 1)
    with pytest.raises(RunError, match="has no adapter yet"):
        ChatSession(run)
    with pytest.raises(ConfigError, match=r"checkpoint=20: is no whole checkpoint .* has none"):
        ChatSession(run, checkpoint=20)
    mark_whole(folder)
    with pytest.raises(RunError, match=r"It has checkpoints: run.chat\(checkpoint=20\)\."):
        ChatSession(run)
    assert ChatSession(run, checkpoint=20).chosen[1].title == "step 20"
    with pytest.raises(
        ConfigError,
        match=r"checkpoint=30: is no whole checkpoint of old-otter-1, which has 20\. Name the step",
    ):
        ChatSession(run, checkpoint=30)
    with pytest.raises(ConfigError, match=r"against: both sides are step 20\."):
        ChatSession(run, checkpoint=20, against=20)
    with pytest.raises(ConfigError, match=r"against=True: is bool, not a run or the step"):
        ChatSession(run, checkpoint=20, against=True)
    with pytest.raises(RunError, match=r"Did you mean old-otter-1\?"):
        ChatSession(run, checkpoint=20, against="old-oter-1")


def test_a_model_that_scores_texts_has_nothing_to_say(run):
    about = run.path / "adapter" / "adapter_config.json"
    about.write_text(about.read_text().replace("CAUSAL_LM", "SEQ_CLS"))
    with pytest.raises(RunError, match="scores texts and writes none"):
        ChatSession(run)


def test_a_checkpoint_of_changed_weights_is_refused(make):
    run = make(checkpoints=(20,), **{"peft.init_lora_weights": "pissa"})
    with pytest.raises(
        ConfigError, match="init_lora_weights=pissa a checkpoint belongs to weights"
    ):
        ChatSession(run, checkpoint=20)
    assert [side.title for side in ChatSession(run).sides] == ["base model", "old-otter-1"]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"temperature": -1}, "temperature=-1: is not between 0 and 10."),
        ({"temperature": "hot"}, "temperature='hot': is str, not a number."),
        ({"top_p": 0}, "top_p=0: is not above 0 and at most 1."),
        ({"max_new_tokens": 0}, "max_new_tokens=0: is not at least 1. Use 256."),
        ({"template": "vicuna"}, "template='vicuna': is not one of chat, rows, text, chatml"),
        ({"stop": 3}, "stop=3: is no list of texts."),
        ({"system": None}, "system: is no text."),
    ],
)
def test_a_wrong_setting_is_one_sentence(run, settings, sentence):
    with pytest.raises(ConfigError) as caught:
        ChatSession(run, **settings)
    assert str(caught.value).startswith(sentence)


def test_an_unknown_setting_is_named(run):
    with pytest.raises(TypeError, match=r"chat has no 'temprature'.*temperature"):
        ChatSession(run, temprature=1)


def test_a_message_that_cannot_be_asked_changes_nothing(run, tiny_model):
    chat = ChatSession(run, template="text", max_new_tokens=8)
    chat.ask("Say hi.")
    with pytest.raises(DataError, match="message: is empty"):
        chat.ask("  ")
    with pytest.raises(
        DataError, match=r"has [\d,]+ tokens for base model, which has room for 1,016"
    ):
        chat.ask("word " * 2000)
    assert [turn.message for turn in chat.turns] == ["Say hi."]
    with pytest.raises(RunError, match="Nothing was asked yet"):
        ChatSession(run).regenerate()
