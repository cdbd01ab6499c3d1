import re

from nbft.evaluate.timeline import Timeline


def said(step, **answers):
    samples = [{"prompt": prompt, "text": text} for prompt, text in answers.items()]
    return {"event": "sample", "step": step, "samples": samples}


FOUND = [
    said(0, hello="red red", bye="a"),
    {"event": "log", "step": 1},
    said(5, hello="red blue", bye="a"),
    said(9, hello="red green", bye="b"),
]


def test_each_prompt_has_its_answers_in_the_order_of_the_steps():
    timeline = Timeline([FOUND[3], *FOUND[:3]])
    assert timeline.steps == [0, 5, 9]
    hello, bye = sorted(timeline.prompts, reverse=True)
    assert hello.answers == [(0, "red red"), (5, "red blue"), (9, "red green")]
    assert bye.answers == [(0, "a"), (5, "a"), (9, "b")]


def test_what_was_answered_again_counts_once():
    assert Timeline([*FOUND, said(9, hello="red white")]).prompts[0].answers[-1][1] == "red white"


def test_each_answer_is_marked_where_it_differs_from_the_one_before():
    html = Timeline(FOUND)._repr_html_()
    assert html.count("<details") == 2
    marked = re.findall(r"<mark[^>]*><u>(.*?)</u></mark>", html)
    assert marked == ["blue", "green", "b"]


def test_texts_stay_texts():
    html = Timeline([said(0, p="<script>"), said(1, p="<i>x")])._repr_html_()
    assert "<script>" not in html
    assert "<i>" not in html


def test_a_long_prompt_is_named_by_its_end():
    prompt = "### Instruction:\n" + "word " * 60 + "the end"
    html = Timeline([said(0, **{prompt: "x"})])._repr_html_()
    summary = re.search(r"<summary[^>]*>(.*?)</summary>", html)[1]
    assert summary.startswith("…")
    assert summary.endswith("the end")
    assert len(summary) < 120
    assert prompt.strip() in html


def test_without_answers_it_says_so():
    assert "No answers yet" in Timeline([])._repr_html_()
    assert (str(Timeline([])), len(Timeline([]))) == ("", 0)
