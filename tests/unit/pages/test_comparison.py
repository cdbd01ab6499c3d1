import re

from nbft.evaluate.compare import Answers, Comparison
from nbft.pages import ending
from nbft.pages.comparison import difference


def text_of(html):
    return re.sub(r"<[^>]+>", "", html)


def marked(html):
    return re.findall(r"<mark[^>]*><u>(.*?)</u></mark>", html, re.S)


def test_only_the_differing_words_are_marked():
    before, after = difference("The cat sat on the mat", "The dog sat on a mat")
    assert marked(before) == ["cat", "the"]
    assert marked(after) == ["dog", "a"]
    assert text_of(after) == "The dog sat on a mat"


def test_a_run_of_differing_words_is_one_mark():
    assert marked(difference("a b c d", "a x y d")[1]) == ["x y"]


def test_line_breaks_and_indents_survive():
    text = "def f():\n    return 1\n\n\n    # end"
    assert text_of(difference(text, "other")[0]) == text


def test_markup_in_answers_stays_text():
    html = Comparison([("<b>p</b>", "<script>x</script>", "a & b")])._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;x&lt;/script&gt;" in html
    assert "a &amp; b" in text_of(html)


def test_samples_are_paired_by_prompt_and_none_is_lost():
    base = [{"prompt": "p", "text": "old"}, {"prompt": "only before", "text": "x"}]
    latest = [{"prompt": "only after", "text": "y"}, {"prompt": "p", "text": "new"}]
    rows = Comparison.of_samples(base, latest).rows
    assert rows == [
        ("only after", "", "y", ""),
        ("p", "old", "new", ""),
        ("only before", "x", "", ""),
    ]


def test_answers_to_equal_prompts_are_paired_in_their_order():
    base = [{"prompt": "p", "text": t, "wanted": w} for t, w in (("a", "x"), ("b", "y"))]
    latest = [{"prompt": "p", "text": t, "wanted": w} for t, w in (("x", "x"), ("z", "y"))]
    both = [("p", "a", "x", "x"), ("p", "b", "z", "y")]
    assert Comparison.of_samples(base, latest).rows == both
    assert Comparison.of_samples(base, latest[:1]).rows == [both[0], ("p", "b", "", "y")]


def test_the_wanted_answer_of_a_sample_is_kept():
    base = [{"prompt": "p", "text": "old", "wanted": "right"}]
    latest = [{"prompt": "p", "text": "right", "wanted": "right"}]
    assert Comparison.of_samples(base, latest).rows == [("p", "old", "right", "right")]
    assert Comparison.of_samples(base, []).rows == [("p", "old", "", "right")]


def test_with_wanted_answers_what_differs_from_them_is_marked():
    html = Comparison([("p", "He go home.", "He goes home.", "He goes home.")])._repr_html_()
    assert marked(html) == ["go"]
    assert "tuned (underlined: differs from wanted)" in html
    assert re.findall(r'<th scope="col"[^>]*>([^<]*)', html)[0] == "wanted"
    assert html.count('aria-label="right"') == 1


def test_a_row_without_a_wanted_answer_compares_both_models():
    html = Comparison([("p", "a b", "a c"), ("q", "x", "y", "y")])._repr_html_()
    assert marked(html) == ["b", "c", "x"]


def test_the_terminal_shows_what_was_wanted_and_which_answer_is_right():
    text = str(Comparison([("p", "no", "yes  please", "yes please"), ("q", "a", "b")]))
    first, second = text.split("\n\n")
    assert first.splitlines() == [
        "prompt      p",
        "wanted      yes please",
        "base model  no",
        "tuned       yes  please (right)",
    ]
    assert second.splitlines() == ["prompt      q", "base model  a", "tuned       b"]


def test_an_empty_answer_is_not_shown_as_nothing():
    answers = Answers([("p", " "), ("q", "two")])
    assert str(answers).splitlines()[1] == "answer  (empty answer)"
    assert "(empty answer)" in answers._repr_html_()
    assert answers == [" ", "two"]


def test_a_slice_of_a_comparison_is_shown_the_same_way():
    both = Comparison([("p", "a", "b"), ("q", "c", "d")], tuned="step 9")
    assert both[1:].rows == both.rows[1:]
    assert both[1:].tuned == "step 9"
    assert both[0].base == "a"


def test_answers_are_a_list_of_texts_that_shows_its_prompts():
    answers = Answers([("p", "one"), ("<q>", "two", "2")], model="a-model")
    assert answers == ["one", "two"]
    assert answers[1:] == ["two"]
    assert list(answers) == ["one", "two"]
    html = answers._repr_html_()
    assert "&lt;q&gt;" in html
    assert re.findall(r'<th scope="col"[^>]*>([^<]*)', html) == [
        "wanted",
        "a-model (underlined: differs from wanted)",
    ]


def test_the_terminal_table_wraps_and_keeps_paragraphs(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    text = str(Comparison([("p", "word " * 20, "one\n\ntwo")]))
    assert max(map(len, text.splitlines())) <= 40
    assert text.splitlines()[-3:] == ["tuned       one", "", "            two"]


def test_without_rows_it_says_so():
    assert "No answers yet" in Comparison([])._repr_html_()
    assert str(Comparison([])) == ""


def test_success_says_where_the_adapter_is_and_how_to_load_it():
    html = ending.success(
        "Run a-b-1 completed in 3 s.",
        "Held-out loss: 2.00 before training, 1.50 after step 9.",
        [("Step 2: <warm>-up ends.", False), ("Step 3: flat.", True)],
        Comparison([("p", "q", "r")]),
        place="The adapter is in runs/a-b-1/adapter.",
        code='run = nbft.attach("a-b-1")\nmodel, tokenizer = run.load_model()',
        page="runs/a-b-1/report.html",
        report="runs/a-b-1/report.html",
    )
    for part in (
        "2.00 before",
        "runs/a-b-1/adapter",
        "load_model()",
        '<a href="runs/a-b-1/report.html" target="_blank">Open the report</a>',
        "<li>Step 2: &lt;warm&gt;",
        "<li><s>Step 3: flat.</s></li>",
        "<table",
    ):
        assert part in html


def test_failure_folds_the_log_and_escapes_it():
    html = ending.failure("Run a-b-1 failed.", ["Out of memory. Use 4."], "<tail> & more")
    assert "Out of memory. Use 4." in html
    assert "<details><summary>" in html
    assert "&lt;tail&gt; &amp; more" in html
    assert "<details>" not in ending.failure("Run a-b-1 failed.", [], " ")


def test_an_answer_that_is_not_there_yet_marks_nothing():
    html = Comparison([("p", "a b", "")])._repr_html_()
    assert "<mark" not in html
    assert "underlined" not in html
