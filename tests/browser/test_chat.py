"""The chat as a person meets it: streaming, stop and rating, with mouse and keyboard, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, expect

from nbft.data.tiny_model import make_tiny_model

from .conftest import App, Notebook

LOADED_MS = 90_000  # torch, transformers and peft are imported first

# A random adapter is enough, and a tiny model is too fast to be stopped. Answer A is the tuned one's:
# the other may be empty.
MAKE = """
import random, time
import nbft, peft, torch
from nbft.evaluate import generate
from transformers import AutoModelForCausalLM, AutoTokenizer

model = {model!r}
run = nbft.Run.create(nbft.Config(
    model={{"model_name": model}}, data={{"rows": [{{"messages": [
        {{"role": "user", "content": "Hi"}}, {{"role": "assistant", "content": "Hello."}}]}}] * 8}},
    training={{"output_dir": {folder!r}, "run_name": "kind-otter-14"}}))
torch.manual_seed(0)
lora = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora).save_pretrained(
    run.path / "adapter")
AutoTokenizer.from_pretrained(model).save_pretrained(run.path / "adapter")
real_write = generate.write

def slow_write(model, tokenizer, ids, most, take, **how):
    def slowly(written):
        time.sleep(0.04)
        return take(written)
    return real_write(model, tokenizer, ids, most, slowly, **how)

generate.write = slow_write
random.shuffle = lambda order: order.reverse()
"""
SHOW = "chat = run.chat(max_new_tokens=12)\nchat"
KEPT = "[__import__('json').loads(l) for l in open(chat.session.preferences)]"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("tiny")))


def opened(notebook: Notebook, output: int) -> Locator:
    chat = notebook.output(output).locator(".nbft-chat")
    expect(chat.get_by_text("One copy of the weights answers")).to_be_visible(timeout=LOADED_MS)
    return chat


def test_answers_stream_are_stopped_and_rated(
    notebook: Notebook,
    model: str,
    looks: Callable[[str, Locator], None],
    console_errors: list[str],
    tmp_path: object,
) -> None:
    notebook.open([MAKE.format(model=model, folder=str(tmp_path)), SHOW])
    notebook.page.set_viewport_size({"width": 1200, "height": 1100})
    notebook.run_cell(0)
    notebook.run_cell(1)
    chat = opened(notebook, 1)
    page = notebook.page
    box = chat.get_by_role("textbox", name="Message")
    box.click()
    page.keyboard.type("Tell me")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("a story.")
    page.keyboard.press("Enter")
    expect(box).to_have_value("")
    log = chat.get_by_role("log", name="Conversation")
    expect(log).to_contain_text("Tell me\na story.")
    base = log.get_by_role("group", name="base model")
    tuned = log.get_by_role("group", name="kind-otter-14")
    expect(base).to_be_visible()
    expect(tuned.locator(".nbft-chat-text")).not_to_be_empty()
    expect(chat).to_have_attribute("aria-busy", "true")
    expect(chat.get_by_role("button", name="Send")).to_have_attribute("aria-disabled", "true")
    expect(chat.get_by_text("Both answers are there.")).to_be_visible()
    expect(tuned.get_by_text("cut at 12 tokens")).to_be_visible()
    text = notebook.kernel_eval("chat.session.turns[0].replies[1].text")
    expect(tuned.locator(".nbft-chat-text")).to_have_text(text)
    asked = r"nbft.ask(run, chat.session.turns[0].replies[1].prompt, max_new_tokens=12)[0]"
    assert notebook.kernel_eval(asked) == text

    log.get_by_role("radio", name="Right is better").check()
    expect(chat.get_by_text("1 pair rated; pairs are kept in kind-otter-14/")).to_be_visible()
    (row,) = notebook.kernel_eval(KEPT)
    assert row["prompt"] == [{"role": "user", "content": "Tell me\na story."}]
    assert row["chosen"] == [{"role": "assistant", "content": text}]
    tuned.get_by_role("button", name="Copy as prompt").click()
    expect(tuned.get_by_text("Copied.")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "<|start|>user\nTell me\na story.<|end|>\n<|start|>assistant\n"
    looks("chat-rated", chat)

    chat.get_by_text("Settings", exact=True).click()
    chat.get_by_label("Longest answer (tokens)").fill("400")
    chat.get_by_label("System prompt").fill("Be brief.")
    chat.get_by_label("Hide which is which until it is rated").check()
    looks("chat-settings", chat)
    box.fill("Another one.")
    box.press("Enter")
    expect(chat.get_by_text("Answer A is being written (1 of 2).")).to_be_visible()
    notebook.expect_value("chat.session.turns[1].replies[0].tokens > 3", True)
    notebook.screenshot("chat-streaming", chat)
    box.press("Escape")
    expect(chat.get_by_text("Stopped.", exact=True)).to_be_visible()
    tokens = notebook.kernel_eval("[r.tokens for r in chat.session.turns[1].replies]")
    assert 0 < tokens[0] < 400
    assert tokens[1] == 0
    expect(log.get_by_role("group", name="Answer B")).to_contain_text("(empty answer)")
    assert "Be brief." in notebook.kernel_eval("chat.session.turns[1].replies[0].prompt")
    for _ in range(2):  # refused, and the page shows nothing as rated
        log.get_by_role("radio", name="Right is better").last.click()
        expect(
            chat.get_by_text("This answer is empty, so there is nothing to learn")
        ).to_be_visible()
        expect(log.get_by_role("radio", name="Right is better").last).not_to_be_checked()
    log.get_by_role("radio", name="Left is better").last.check()
    expect(log.get_by_role("group", name="Answer A")).to_have_count(0)
    assert len(notebook.kernel_eval(KEPT)) == 2
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == 3  # no shortcut of JupyterLab's
    assert console_errors == []


def test_a_saved_notebook_shows_the_conversation_without_a_kernel(
    notebook: Notebook, model: str, tmp_path: object
) -> None:
    notebook.open([MAKE.format(model=model, folder=str(tmp_path)), SHOW])
    notebook.run_cell(0)
    notebook.run_cell(1)
    chat = opened(notebook, 1)
    still = notebook.page.locator(".nbft-chat-still")
    expect(still).to_be_hidden()
    box = chat.get_by_role("textbox", name="Message")
    box.fill("Tell me a story.")
    box.press("Enter")
    expect(chat.get_by_text("Both answers are there.")).to_be_visible()
    notebook.save()
    notebook.server.shut_kernels_down()
    notebook.reload()
    expect(still).to_be_visible()
    expect(still.get_by_text("Tell me a story.")).to_be_visible()
    lost = notebook.output(1).get_by_text(re.compile("Error displaying|Loading widget"))
    expect(lost).to_be_hidden()
    notebook.screenshot("chat-saved")


@pytest.mark.parametrize("app", ["notebook"])
def test_the_chat_works_in_other_front_ends(
    notebook: Notebook, app: App, model: str, tmp_path: object
) -> None:
    notebook.open([MAKE.format(model=model, folder=str(tmp_path)) + SHOW], app=app)
    notebook.run_cell(0)
    chat = opened(notebook, 0)
    box = chat.get_by_role("textbox", name="Message")
    box.fill("Hi.")
    box.press("Enter")
    expect(chat.get_by_text("Both answers are there.")).to_be_visible()
