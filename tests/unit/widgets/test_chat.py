"""The chat without a browser: its messages are sent as a front end would send them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ipywidgets.widgets import widget as ipywidgets_widget

import nbft
from nbft.errors import ConfigError, RunError
from nbft.runs import chat as chatting
from nbft.widgets import chat as chat_module
from nbft.widgets import kernel
from nbft.widgets.chat import Chat

HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }}"


@pytest.fixture(autouse=True)
def no_loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As in a script: what would be done on a thread is done at once."""
    monkeypatch.setattr(kernel, "_loop", None)
    yield
    nbft.release_model()


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> nbft.Run:
    """Return a run with an adapter and a checkpoint, without any training."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nbft.runs.checkpoints import mark_whole

    config = nbft.Config(
        model={"model_name": str(tiny_model)},
        data={"rows": [{"prompt": "Hi\n", "completion": "Hello."}] * 8},
        training={"output_dir": str(tmp_path / "runs"), "run_name": "old-otter-1"},
    )
    run = nbft.Run.create(config)
    checkpoint = run.path / "checkpoints" / "checkpoint-20"
    for seed, folder in enumerate((checkpoint, run.path / "adapter")):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        lora = peft.LoraConfig(
            r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
        )
        peft.get_peft_model(base, lora).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    mark_whole(checkpoint)
    return run


@pytest.fixture
def chat(run: nbft.Run) -> Chat:
    return run.chat(template="text", max_new_tokens=4)


def send(chat: Chat, kind: str, **content: Any) -> None:
    """Send a message as the page does."""
    chat._handle_custom_msg({"type": kind, **content}, [])


def test_it_opens_with_what_there_is_to_choose(chat: Chat) -> None:
    assert chat.state == "ready"
    assert chat.sides == ["base model", "step 20", "old-otter-1"]
    assert chat.chosen == ["base model", "old-otter-1"]
    assert chat.about[0].startswith("One copy of the weights answers for both sides (about ")
    assert ["text", "plain text"] in chat.templates
    assert (chat.settings["template"], chat.settings["max_new_tokens"]) == ("text", 4)
    assert repr(chat) == "Chat: base model and old-otter-1"


def test_a_message_is_answered_rated_and_kept(chat: Chat, run: nbft.Run) -> None:
    send(chat, "send", text="Say hi.", settings={"max_new_tokens": 6, "stop": []})
    (turn,) = chat.turns
    assert (chat.state, chat.says, chat.live) == ("ready", "Both answers are there.", {})
    assert [reply["title"] for reply in turn["replies"]] == ["base model", "old-otter-1"]
    assert turn["replies"][1]["text"] == nbft.ask(run, "Say hi.", max_new_tokens=6)[0]
    assert turn["replies"][0]["prompt"] == "Say hi."
    assert turn["replies"][0]["note"].startswith("cut at 6 tokens · ")
    assert chat.settings["max_new_tokens"] == 6
    send(chat, "rate", turn=0, choice="right")
    assert chat.turns[0]["rating"] == "right"
    assert chat.rated == "1 pair rated; pairs are kept in old-otter-1/preferences.jsonl."
    send(chat, "rate", turn=0, choice="tie")
    assert chat.rated.startswith("0 pairs and 1 tie rated")
    send(chat, "again", settings={"temperature": 2.0})
    assert chat.turns[0]["rating"] == ""
    send(chat, "clear")
    assert (chat.turns, chat.says) == ([], "A new conversation. Ratings are kept.")


def test_answers_without_names_stay_so_until_they_are_rated(chat: Chat) -> None:
    send(chat, "send", text="Say hi.", settings={"is_blind": True})
    sent = json.dumps([chat.turns, chat.live, chat.says])
    assert [reply["title"] for reply in chat.turns[0]["replies"]] == ["Answer A", "Answer B"]
    assert "base model" not in sent
    assert "old-otter-1" not in sent
    assert "Say hi." not in chat._picture()["text/html"]
    send(chat, "rate", turn=0, choice="left")
    assert sorted(reply["title"] for reply in chat.turns[0]["replies"]) == [
        *("base model", "old-otter-1"),
    ]
    assert "Say hi." in chat._picture()["text/html"]


def test_another_checkpoint_begins_a_new_conversation(chat: Chat) -> None:
    send(chat, "send", text="Say hi.")
    send(chat, "choose", left="step 20", right="old-otter-1")
    assert (chat.chosen, chat.turns) == (["step 20", "old-otter-1"], [])
    send(chat, "send", text="Say hi.")
    assert chat.turns[0]["replies"][0]["title"] == "step 20"
    send(chat, "choose", left="step 20", right="step 20")
    assert (chat.says, chat.is_wrong) == ("side='step 20': is on both sides. Choose two.", True)


def test_a_mistake_is_a_sentence_and_the_message_comes_back(chat: Chat) -> None:
    send(chat, "set", settings={"max_new_tokens": 3, "system": "Be brief."})
    assert (chat.settings["max_new_tokens"], chat.settings["system"]) == (3, "Be brief.")
    send(chat, "send", text="Say hi.", settings={"temperature": -1})
    assert (chat.says, chat.is_wrong) == ("temperature=-1: is not between 0 and 10.", True)
    send(chat, "send", text="word " * 2000, settings={})
    assert "Begin a new conversation" in chat.says
    assert chat.refused == "word " * 2000
    assert (chat.state, chat.turns) == ("ready", [])
    send(chat, "send", text="Say hi.")
    assert (chat.is_wrong, chat.refused) == (False, "")
    send(chat, "rate", turn=7, choice="left")
    assert chat.says == "number=7: is no message of this conversation."
    assert chat.state == "ready"


def test_without_memory_it_says_so_and_tries_again(
    run: nbft.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbft.runs import sides

    with monkeypatch.context() as patch:
        patch.setattr(sides, "free_memory_bytes", lambda _: 0)
        chat = run.chat(template="text", max_new_tokens=2)
        assert chat.state == "failed"
        assert chat.says.startswith("The chat needs about ")
        send(chat, "send", text="Say hi.")
        assert (chat.state, chat.refused) == ("failed", "Say hi.")
    send(chat, "send", text="Say hi.")
    assert (chat.state, len(chat.turns)) == ("ready", 1)


def test_what_is_wrong_with_the_call_is_raised_where_it_is_made(run: nbft.Run) -> None:
    with pytest.raises(ConfigError, match="checkpoint=30: is no whole checkpoint of old-otter-1"):
        run.chat(checkpoint=30)
    with pytest.raises(TypeError, match="chat has no 'temprature'"):
        run.chat(temprature=1)
    (run.path / "adapter").rename(run.path / "gone")
    with pytest.raises(RunError, match="has no adapter yet"):
        run.chat()


def test_a_busy_kernel_gets_the_latest_text_and_not_all(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting: list[Any] = []
    monkeypatch.setattr(chat_module, "call_soon", lambda function, *args: waiting.append(function))
    chat.state = "answering"
    turn = chatting.Turn("Say hi.")
    turn.replies.append(chatting.Reply(0, "base model"))
    chat.session.turns = [turn]
    for n in range(100):
        turn.replies[0].text = f"word {n}"
        chat._take(turn, turn.replies[0])
    assert len(waiting) == 1
    waiting.pop()()
    assert chat.live == {"turn": 0, "place": 0, "text": "word 99"}
    chat._take(turn, turn.replies[0])
    assert len(waiting) == 1


def test_at_most_ten_texts_a_second_are_handed_over_and_stop_is_heard_meanwhile(
    run: nbft.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the loop of a kernel: it stays free while answers are written."""
    from nbft.evaluate import generate

    real = generate.write

    def slow_write(model: Any, tokenizer: Any, ids: Any, most: int, take: Any, **how: Any) -> Any:
        def slowly(written: Any) -> Any:
            time.sleep(0.01)
            return take(written)

        return real(model, tokenizer, ids, most, slowly, **how)

    monkeypatch.setattr(generate, "write", slow_write)
    texts: list[tuple[float, str]] = []

    async def until(holds: Any) -> None:
        async with asyncio.timeout(120):
            while not holds():
                await asyncio.sleep(0.005)

    async def cell() -> None:
        kernel.main_loop()
        chat = run.chat(template="text", max_new_tokens=900)
        assert chat.state == "loading"
        chat.observe(lambda change: texts.append((time.monotonic(), change["new"])), "live")
        send(chat, "send", text="Say hi.")  # before the models are there
        await until(lambda: len(texts) > 8)
        assert chat.state == "answering"
        began = time.monotonic()
        other_thread = threading.Thread(target=send, args=(chat, "stop"))
        other_thread.start()
        await until(lambda: chat.state == "ready")
        assert time.monotonic() - began < 5
        assert chat.says == "Stopped."
        assert chat.turns[0]["replies"][1]["note"].startswith("0 tokens · stopped")

    asyncio.run(cell())
    times = [when for when, live in texts if live.get("text")]
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert len(gaps) > 3
    assert sum(gap < 0.08 for gap in gaps) <= 2, "the first and the last of an answer"


def test_the_picture_for_saved_notebooks_keeps_markup_as_text(chat: Chat) -> None:
    assert "Nothing was asked yet" in chat._picture()["text/html"]
    send(chat, "send", text=HOSTILE)
    picture = chat._picture()
    assert "<script>" not in picture["text/html"]
    assert "&lt;script&gt;" in picture["text/html"]
    assert "base model" in picture["text/plain"]


def test_closing_it_leaves_no_widget(run: nbft.Run) -> None:
    before = len(ipywidgets_widget._instances)
    chat = run.chat(template="text", max_new_tokens=2)
    send(chat, "send", text="Say hi.")
    chat.close()
    assert len(ipywidgets_widget._instances) == before
