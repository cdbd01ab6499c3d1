"""The catalogue: each kind is found in a sick row, not in a healthy one, and mended exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nbft import registry
from nbft.config import Config
from nbft.data.doctor import doctor
from nbft.data.doctor.kinds import KINDS, Said, unmangled, without_controls
from nbft.data.doctor.text import FAMILIES, whole_turns, without_marks
from nbft.data.formats import Example

CARD = "4111 1111 1111 1111"
KEY = "AKIA" + "ABCDEFGHIJKLMNOP"
LOOP = "and then he went home " * 20


def turns(*said):
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": roles[one[0]], "content": one[2:]} for one in said]


# name: (sick answers, healthy answers); a tuple is a prompt and its answer, a list are turns
KIND_CASES = {
    "replacement_characters": (["It is \ufffd here.", "half \ud83d"], ["It is é here."]),
    "mojibake": (
        ["CafÃ© and tea", "He said â€œyesâ€\x9d", "Itâ\x80\x99s", "Ð¿Ñ\x80Ð¸Ð²ÐµÑ‚"],
        ["Café, „Spaß“, NÃO, «ÎLE», 3×”, Ångström", "“AMANHÃ", "AMANHÔ", "naïve"],
    ),
    "control_characters": (
        ["One\x00two", "a\x1b[31mred\x1b[0m", "End.\x0cNew page", "Half: \x0crac{1}{2}"],
        ["One\ttwo\n", "Itâ\x80\x99s"],
    ),
    "invisible_characters": (["One\u200btwo", "so\u00adft"], ["می\u200cخواهم 👩\u200d🔬"]),
    "no_break_spaces": (["One\u00a0two words."], ["Quoi\u00a0?", "20\u00a0% de 3\u202f000"]),
    "look_alike_letters": (
        ["Your p\u0430ssword is here.", "The w\u043erld"],
        ["пароль и мир", "Δx and αA are angles", "The word пароль means password."],
    ),
    "carriage_returns": (["One\r\ntwo", "One\rtwo"], ["One\ntwo"]),
    "written_line_breaks": (
        ["First.\\nSecond.", "One.\\n\\nTwo."],
        ["Write \\n\nfor a new line.", "The regex \\n matches.", "C:\\new\\names", "print('a\\n')"],
    ),
    "html_entities": (
        ["Salt &amp; pepper", "5 &#60; 6", "a &amp;lt; b"],
        ["Salt & pepper; a&b; &c", "In HTML write &lt; for a bracket.", "```\n&amp;\n```"],
    ),
    "html_tags": (
        ["<p>Yes.</p>", "One<br>two", "a <b>bold</b> word"],
        ["a < b and c > d", "x<y>z", "In HTML: <p>text</p>", "```\n<p>\n```"],
    ),
    "placeholder_answers": (
        ["None", "nan", "N/A", ".", "TODO", "null.", "???", "-", "Lorem ipsum"],
        ["No", "None of them.", "0", "A", "👍", ">", "€", "x"],
    ),
    "blanks_in_answers": (
        ["Dear [Insert name], hello.", "On [date] at noon."],
        ["See [1] and [the docs].", ("Write a template for a letter.", "Dear [Your Name]")],
    ),
    "refusals": (
        [
            "I'm sorry, but I cannot help with that.",
            "As an AI language model, I have no opinions.",
            "Sorry, I can't assist with this request.",
            "I’m unable to do so. I cannot provide that.",
            "I cannot answer this question.",
        ],
        ["I'm sorry to hear that. Try this.", "I can help.", "Sorry for the delay: it is 5."],
    ),
    "prompt_in_answer": (
        [("What is the capital of France?\n", "What is the capital of France?\nParis.")],
        [
            ("What is the capital of France?\n", "Paris."),
            ("Hi", "Hi there"),
            ("Repeat: a b c", "a b c"),
        ],
    ),
    "repetition_loops": (
        [LOOP, "no no no no no no no no no no no no no", "ha. " * 100],
        ["ha ha ha", "| --- " * 30 + "|", json.dumps([{"a": n} for n in range(40)]), "1 " * 20],
    ),
    "doubled_answers": (
        [
            "The sea is very deep there. The sea is very deep there.",
            "The sea is very deep there.\n\nThe sea is very deep there.",
        ],
        [
            ("Say it twice.", "The sea is very deep there. The sea is very deep there."),
            "No, no.",
            "-" * 80,
            "The sea is deep there. The lake is deep there.",
        ],
    ),
    "unfilled_placeholders": (
        [("Answer {question} now.", "Yes."), "Dear {{ name }},", "It is {output}."],
        [
            ("Write a template for a letter.", "Dear {{name}},"),
            "f{input}",
            "The set {a, b} and {x}",
            'print(f"{name}")',
            "\\text{name}",
        ],
    ),
    "footnote_marks": (
        ["It was built in 1890.[1]", "Many [2][3] say so."],
        [
            ("See [1] for it.", "It says so.[1]"),
            "a[1] = 2",
            "It is so.[1]\n\n[1] The Times",
            "x = [1]",
        ],
    ),
    "written_end_tokens": (
        ["Yes.</s>", "Yes. <|endoftext|>\n", "Yes.<|im_end|>"],
        ["Strike </s> the text.", "Yes.", "<s>gone</s>"],
    ),
    "empty_turns": (
        [turns("u:Hi", "a:", "u:And?", "a:Yes.")],
        [turns("u:Hi", "a:Yes.", "u:And?", "a:")],
    ),
    "repeated_speakers": (
        [turns("u:Hi", "u:Hello?", "a:Yes."), turns("u:Hi", "a:One", "a:Two")],
        [turns("s:Be kind.", "u:Hi", "a:Yes.")],
    ),
    "late_system_turns": (
        [turns("u:Hi", "s:Be kind.", "a:Yes.")],
        [turns("s:Be kind.", "u:Hi", "a:Yes.")],
    ),
    "personal_data": (
        [
            f"Pay with {CARD}.",
            "Write to jo.smith@gmail.com",
            "Call (555) 123-4567 or +49 171 555 1234",
            "Her number is 123-45-6789.",
            "Pay to DE89 3704 0044 0532 0130 00.",
        ],
        [
            "Write to a@b.example",
            "500-135-141=224",
            "In 2020-2021, 1234 5678",
            "4111 1111 1111 1112",
        ],
    ),
    "secrets": (
        [f"The key is {KEY}.", "hf_" + "aB3d" * 9, "-----BEGIN PRIVATE KEY-----", "pwd=hunter2x"],
        ["The key is under the mat.", "AKIA is a prefix."],
    ),
    "toxic_answers": (
        [
            "What the fuck do I know.",
            "You stupid moron, look it up.",
            "You are so pathetic.",
            "You’re a complete idiot.",
            "Just kill yourself.",
            "They should all be shot.",
            "I hate all foreigners.",
            "I hope you die.",
        ],
        [
            "You are not stupid.",
            "You should dye the cloth blue.",
            "What do you call a pig? I can help you beat losers.",
            "The last scenes are dark: they should be shot at night.",
            "It retards growth in Scunthorpe; the assassin passed the class.",
            "They are disgusted by the smell of shiitake.",
            "He killed a hitchhiker in the novel.",
        ],
    ),
    "wrong_sums": (
        ["She has <<3+4=8>>8.", "<<2*3=6>> then <<10/4=4>>", "<<50%*200=10>>"],
        ["<<3+4=7>>7", "<<10/3=3.33>>", "<<1,000*2=2,000>>", "<<1/3=1/3>>", "<<x+1=3>>", "a << b"],
    ),
    "unreached_results": (
        ["13 + 4 = 17 marbles\n#### 33"],
        [
            "13 + 4 = 17\n#### 17",
            "0.25 dollars\n#### 25",
            "It is so.\n#### 5",
            "$4 000 more\n#### 4,000",
        ],
    ),
    "long_summaries": (
        [("Summarize: " + "Some words of a text. " * 20, "A longer text than that. " * 30)],
        [("Summarize: " + "Some words of a text. " * 20, "Short words about a long text.")],
    ),
}


for _name, _more in {
    "look_alike_letters": ["sinα + cosα", "TNFα and PPARα"],
    "written_line_breaks": [
        "Put \\n at the end of the string.",
        "Split it on \\n and count.",
        "C:\\new\\nBar",
    ],
    "html_entities": ["Write &amp; instead of &."],
    "html_tags": ["if a <b and c> d", "vector<a> v", "x<p, q>y"],
    "placeholder_answers": ["%", "&", "*", "()", "[]", "Nothing"],
    "blanks_in_answers": ["Todo está listo.", "My todo list", "[Company website](https://a.b)"],
    "refusals": [
        "Unfortunately, I don't have a garden.",
        "I'm sorry I can't come to your party.",
        "As an AI researcher, she works.",
    ],
    "personal_data": [
        *("john@example.com", "500 1000 2000", "in 1990 2000 2010"),
        *("DE89 3704 0044 0532 0130 01", "000-12-3456", "AB12 CDEF GHIJ KLMN"),
    ],
    "secrets": [
        ("Make a password.", "Your password: rT8$jLpZ"),
        "The password: ask your administrator.",
        'password = "<yours>"',
    ],
    "wrong_sums": ["<<3*1,5=4,5>>", "<<3(4)=12>>"],
    "no_break_spaces": ["— Bonjour, M.\xa0Dupont", "i\xa0zwijania"],
    "invisible_characters": ["ភាសា\u200bខ្មែរ"],
}.items():
    KIND_CASES[_name][1].extend(_more)


def said_by(case):
    if isinstance(case, list):
        return Said(Example(messages=tuple(case)))
    return Said(Example(*case) if isinstance(case, tuple) else Example("What is it?\n", case))


def test_every_kind_has_cases():
    assert {*KIND_CASES} == {*KINDS}


@pytest.mark.parametrize("name", KIND_CASES)
def test_a_kind_is_found_in_sick_rows_only(name):
    sick, healthy = KIND_CASES[name]
    for case in sick:
        assert KINDS[name].find(said_by(case)), case
    for case in healthy:
        assert not KINDS[name].find(said_by(case)), case


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.mend])
def test_a_text_is_mended_at_once_and_every_other_stays(name):
    kind = KINDS[name]
    sick, healthy = KIND_CASES[name]
    for case in sick:
        mended = kind.mend(case)
        assert not kind.find(said_by(mended)), case
        assert kind.mend(mended) == mended
    others = [case for _, cases in KIND_CASES.values() for case in cases if isinstance(case, str)]
    for case in [*healthy, *others]:
        if isinstance(case, str) and not kind.find(said_by(case)) and not said_by(case).is_code:
            assert kind.mend(case) == case, case


@pytest.mark.parametrize(
    ("sick", "meant"),
    [
        ("Itâ\x80\x99s", "It’s"),
        ("CafÃ© â€œJimâ€\x9d", "Café “Jim”"),
        ("ðŸ˜€ SÃ£o", "😀 São"),
    ],
)
def test_what_was_mangled_is_decoded(sick, meant):
    assert unmangled(sick) == meant


@pytest.mark.parametrize(
    ("sick", "meant"),
    [
        ("One\x00two\x07", "Onetwo"),
        ("\x0crac{1}{2} of \x08eta", "\\frac{1}{2} of \\beta"),
        ("Page one.\x0cPage two", "Page one.\nPage two"),
        ("a\x1b[31mred\x1b[0m", "ared"),
        ("The \x0cright way", "The right way"),
    ],
)
def test_control_characters_are_removed_or_decoded(sick, meant):
    assert without_controls(sick) == meant


def test_entities_that_were_escaped_twice_need_one_round():
    assert KINDS["html_entities"].mend("a &amp;amp;lt; b") == "a < b"


FIXES = {name: KIND_CASES[name][0][0] for name, kind in KINDS.items() if kind.mend}


@pytest.mark.parametrize("name", FIXES)
@pytest.mark.parametrize("column", ["completion", "note"])
def test_a_fix_changes_the_sick_rows_of_a_mixed_file_only(
    name, column, tmp_path, good_rows, tiny_model
):
    """Clean rows and other columns stay byte for byte; one round is enough; nothing new appears."""
    other = FIXES["mojibake" if name != "mojibake" else "html_entities"]
    rows = [{"n": n, **row, "note": f"as it was: {other}"} for n, row in enumerate(good_rows)]
    for n in (3, 17, 30):
        before = "" if name in ("written_line_breaks", "doubled_answers") else rows[n][column] + " "
        rows[n] = {**rows[n], column: before + FIXES[name]}
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row, separators=(",", ":")) for row in rows]
    path.write_text("\n\n".join(lines) + "\n")
    config = Config(model={"model_name": str(tiny_model)}, data={"path": str(path)})
    report = doctor(config, say=lambda _: None)
    if column == "note":
        assert name not in report, "a column that is not trained on is nobody's business"
        return
    assert report[name].count == 3
    assert [one.row for one in report.preview(name)] == [4, 18, 31]
    mended = report.apply(name)
    written = Path(mended.data.train.datasets[0].path)
    assert written.name == "rows.fixed.jsonl"
    new = written.read_text().splitlines()
    assert len(new) == len(lines)
    for n, (old_line, new_line) in enumerate(zip(lines, new, strict=True)):
        if n in (3, 17, 30):
            old, now = json.loads(old_line), json.loads(new_line)
            assert {k: v for k, v in now.items() if k != column} == {
                k: v for k, v in old.items() if k != column
            }
            assert now[column] == KINDS[name].mend(old[column]) != old[column]
        else:
            assert new_line == old_line
    after = doctor(mended, say=lambda _: None)
    assert name not in after
    assert {one.name for one in after.findings} <= {one.name for one in report.findings}
    again = after.config.data.train.datasets[0].path
    assert again == str(written)


def test_a_person_registers_a_check(found_in, good_rows):
    @registry.checks.register("shouting")
    def shouting(example):
        """Rows that shout."""
        return example.completion if example.completion.isupper() else None

    @registry.checks.register("broken")
    def broken(example):
        raise KeyError("no such thing")

    try:
        rows = [
            {**row, "completion": "YES AND NO."} if n == 4 else row
            for n, row in enumerate(good_rows)
        ]
        found = found_in(rows)
        assert found["shouting"].count == 1
        assert found["shouting"].what.startswith("Rows that shout: 1 of 40")
        assert found["shouting"].places[0].row == 5
        assert "broken" not in found
    finally:
        registry.checks.unregister("shouting")
        registry.checks.unregister("broken")


LONG = {
    "spaces": " " * 1_000_000 + "<b>",
    "end tokens": "</s>" * 250_000 + "x>",
    "prose": "we import goods and print books " * 30_000,
    "entities": "&amp;" + "amp;" * 250_000,
    "marks": "[INST] " * 20_000 + " " * 30_000,
    "keys": "sk-" * 330_000,
    "mangled": "привет CafÃ© " * 80_000,
    "digits": "1 2 3 4 5 6 7 8 9 0 " * 50_000,
}


@pytest.mark.parametrize("name", LONG)
def test_a_megabyte_is_looked_at_quickly(name, cpu_seconds):
    """No pattern takes time that grows with the square of the text."""
    said = Said(Example("What?\n", LONG[name]))

    def look():
        for kind in KINDS.values():
            kind.find(said)
        for family in FAMILIES:
            whole_turns(LONG[name], family)
            without_marks(LONG[name], family)

    assert cpu_seconds(look) < 5


def test_only_the_answer_is_mended_where_the_kind_is_about_it(found_in):
    row = {
        "messages": [
            {"role": "user", "content": "Which tag ends it? </s>"},
            {"role": "assistant", "content": "<s>old</s>"},
            {"role": "user", "content": "And now?"},
            {"role": "assistant", "content": "Done.</s>"},
        ]
    }
    found = found_in([row], split_ratio=1.0)["written_end_tokens"]
    mended = found.rewrite.mend(row)
    assert mended["messages"][:3] == row["messages"][:3]
    assert mended["messages"][3]["content"] == "Done."


@pytest.mark.parametrize("said_by", [("role", "content"), ("from", "value")])
def test_every_answer_of_a_conversation_is_mended(said_by, tmp_path, tiny_model):
    """Also one that is followed by other turns, whatever the speakers are called."""
    role, content = said_by
    users = ("user", "assistant") if role == "role" else ("human", "gpt")
    said = ["Ends </s>", "First.</s>", "And </s>", "Second.</s>", "Thanks, that is all </s>"]
    row = {
        "conversations": [{role: users[n % 2], content: text} for n, text in enumerate(said)],
        "id": "a</s>",
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    data = {"path": str(path), "split_ratio": 1.0}
    config = Config(model={"model_name": str(tiny_model)}, data=data)
    report = doctor(config, say=lambda _: None)
    mended = report.apply("written_end_tokens")
    new = json.loads((tmp_path / "rows.fixed.jsonl").read_text())
    assert [turn[content] for turn in new["conversations"]] == [
        "Ends </s>",
        "First.",
        "And </s>",
        "Second.",
        "Thanks, that is all </s>",
    ]
    assert new["id"] == "a</s>"
    assert "written_end_tokens" not in doctor(mended, say=lambda _: None)


@pytest.mark.parametrize(
    ("setting", "text", "meant"),
    [
        ("prompt_template", "Fragen Ã¼ber Zahlen: {prompt}", "Fragen über Zahlen: {prompt}"),
        ("completion_template", "{completion}</s>", "{completion}"),
    ],
)
def test_what_stands_in_a_template_is_mended_there(
    setting, text, meant, tmp_path, good_rows, tiny_model
):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, good_rows)))
    data = {"path": str(path), "prompt_template": "{prompt}", "completion_template": "{completion}"}
    config = Config(model={"model_name": str(tiny_model)}, data=data | {setting: text})
    before = doctor(config, say=lambda _: None)
    (name,) = {"mojibake", "written_end_tokens"} & {one.name for one in before.findings}
    assert before[name].count == 40
    assert f"It stands in data.train.datasets[0].{setting}." in before[name].what
    mended = before.apply(name)
    assert mended.data.train.datasets[0] == config.data.train.datasets[0].model_copy(
        update={setting: meant}
    )
    assert [*tmp_path.iterdir()] == [path], "no file is written"
    assert name not in doctor(mended, say=lambda _: None)
