"""Tables as spreadsheet programs write them: every habit is read, and said, by both readers."""

import gzip
import json

import pytest

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.data import lines, tables
from nbft.data.doctor import doctor
from nbft.data.examples import load_examples
from nbft.data.sources import load_rows, number_in_file, remarks_of, stream_rows
from nbft.errors import DataError

from ...workbooks import write_ods, write_xlsx  # noqa: TID252

FIELD = "data.train.datasets[0]"
ROWS = [{"german word": "Hund", "english": "dog"}, {"german word": "Öl; fett", "english": "1,5\nl"}]


@pytest.fixture(params=["small", "large"])
def load(request, monkeypatch, empty_cache):
    """Return a function that reads a file in memory, or as lines on disk."""
    if request.param == "large":
        monkeypatch.setattr(lines, "LARGE_BYTES", 0)

    def load_file(path, **dataset):
        rows = load_rows(Dataset(path=str(path), **dataset), "train", FIELD)
        assert isinstance(rows, lines.LineRows) == (request.param == "large")
        return list(rows), list(remarks_of(rows))

    return load_file


def refused(load, path, **dataset):
    with pytest.raises(DataError) as caught:
        load(path, **dataset)
    return "\n".join(problem.sentence for problem in caught.value.problems)


# CSV and TSV


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found_in_the_file(load, write, name, separator):
    def line(*cells):
        return separator.join(f'"{cell}"' for cell in cells) + "\r\n"

    path = write(name, line("german word", "english") + "".join(line(*r.values()) for r in ROWS))
    rows, remarks = load(path)
    assert rows == ROWS
    usual = "\t" if name == "a.tsv" else ","
    words = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
    expected = [] if separator == usual else [f"The cells are separated by {words[separator]}."]
    assert remarks == expected


def test_decimal_commas_stay_and_do_not_mislead(load, write):
    rows, _ = load(write("a.csv", "Preis;Menge\n1,50;2,5\n0,3;1,25\n"))
    assert rows == [{"Preis": "1,50", "Menge": "2,5"}, {"Preis": "0,3", "Menge": "1,25"}]


def test_commas_in_most_cells_do_not_mislead(load, write):
    text = "frage;antwort\nWer, wie, was?;Der, die, das\nWarum, weshalb?;Darum\n"
    assert load(write("a.csv", text))[0][0] == {
        "frage": "Wer, wie, was?",
        "antwort": "Der, die, das",
    }


def test_a_line_that_names_the_separator_is_no_row(load, write):
    rows, remarks = load(write("a.csv", 'sep=;\r\nq;a\r\n"x";"1,5"\r\n'))
    assert rows == [{"q": "x", "a": "1,5"}]
    assert remarks == ["The cells are separated by semicolons."]


def test_one_column_needs_no_separator(load, write):
    assert load(write("a.csv", "text\nHello\nGood day\n"))[0] == [
        {"text": "Hello"},
        {"text": "Good day"},
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_are_certain(load, write, encoding):
    text = "german word;english\nHund;dog\n"
    rows, remarks = load(write("a.csv", text.encode(encoding)))
    assert rows == ROWS[:1]
    assert remarks == ["The cells are separated by semicolons."]


@pytest.mark.parametrize(
    "text",
    [
        "Größe, “Maß” – 5 €",
        "où êtes-vous, garçon? l’été",
        "¿Qué? ¡El niño comió 1º!",
        "não põe ações",
        "smørrebrød på øl",
    ],
)
def test_windows_1252_is_read_and_said(load, write, text):
    content = f'q;a\n"{text}";x\n'.encode("cp1252")
    rows, remarks = load(write("a.csv", content))
    assert rows == [{"q": text, "a": "x"}]
    assert "is read as Windows-1252, since it is not UTF-8: “" in remarks[0]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1250", "przykład zażółć gęślą"),
        ("cp1250", "příliš žluťoučký kůň"),
        ("cp1250", "erős tűz, öt szűk út"),
        ("cp1251", "да, нет"),
        ("cp1253", "καλημέρα"),
        ("cp1254", "ağaç ışık şeker"),
        ("mac-roman", "Grüße für Märkte"),
        ("cp850", "Grüße für Märkte"),
        ("shift-jis", "こんにちは"),
        ("gb18030", "你好世界"),
        ("koi8-r", "привет мир"),
    ],
)
def test_other_encodings_are_a_sentence(load, write, encoding, text):
    path = write("a.csv", f"q;a\n{text};x\n".encode(encoding))
    assert refused(load, path) == (
        "is not UTF-8 text, and its encoding cannot be told. Save it as UTF-8; in Excel, choose "
        "“CSV UTF-8” under Save As."
    )


def test_what_is_no_text_is_a_sentence(load, write):
    assert refused(load, write("a.csv", b"PK\x03\x04\0\0")) == (
        "is a workbook or an archive, not text. Give it its own ending, .xlsx."
    )
    without_mark = write("b.csv", "q;a\nx;y\n".encode("utf-16-le"))
    assert "is not text: it holds zero bytes. Save it as UTF-8" in refused(load, without_mark)


def test_names_are_kept_usable(load, write):
    path = write("a.csv", 'german  word ,"english\nmeaning", hint \nHund,dog,x\n')
    rows, remarks = load(path)
    assert rows == [{"german word": "Hund", "english meaning": "dog", "hint": "x"}]
    assert remarks == ["Spaces around column names, and line breaks in them, are removed."]


def test_a_template_takes_a_name_with_a_space(write):
    path = write("a.csv", "german word , english meaning\nHund,dog\n")
    templates = {
        "prompt_template": "{german word} = ",
        "completion_template": "{english meaning}",
    }
    examples, _ = load_examples(Config(data={"path": path, "split_ratio": 1, **templates}), "train")
    assert (examples[0].prompt, examples[0].completion) == ("Hund = ", "dog")
    assert any("Spaces around column names" in text for text in examples.recognised)


@pytest.mark.parametrize("name", ["Question:", "say it!", "a: b", "50% [new]", "x.y"])
def test_a_template_takes_any_name(write, name):
    path = write("a.csv", f"{name};a\nx;y\n")
    templates = {"prompt_template": f"Q {{{name}}}?", "completion_template": "{a}"}
    examples, _ = load_examples(Config(data={"path": path, "split_ratio": 1, **templates}), "train")
    assert examples[0].prompt == "Q x?"


def test_empty_columns_and_rows_are_left_out_and_said(load, write):
    rows, remarks = load(write("a.csv", "q;a;;\nx;y;;\n;;;\nz;w;;\n;;;\n;;;\n"))
    assert rows == [{"q": "x", "a": "y"}, {"q": "z", "a": "w"}]
    assert remarks[1:] == [
        "2 columns without a name or values are left out.",
        "3 empty rows are left out (the first is row 3).",
    ]


def test_a_column_without_a_name_gets_one(load, write):
    rows, remarks = load(write("a.csv", ",q,column_1,\n0,x,y,\n"))
    assert rows == [{"column_2": "0", "q": "x", "column_1": "y"}]
    assert remarks[0] == "“column_2” is a column without a name in row 1."


def test_the_same_name_twice(load, write):
    rows, remarks = load(write("a.csv", "q,q,q_2,q\n1,2,3,4\n"))
    assert rows == [{"q": "1", "q_3": "2", "q_2": "3", "q_4": "4"}]
    assert remarks == ["Columns have the name of another: “q”, now “q_3”, “q”, now “q_4”."]


def test_a_title_above_the_names(load, write):
    rows, remarks = load(write("a.csv", "Vocabulary 2024;;\n;;\nq;a;hint\nx;y;z\n"))
    assert rows == [{"q": "x", "a": "y", "hint": "z"}]
    assert remarks[1] == "“Vocabulary 2024” is taken for a title; row 3 names the columns."


@pytest.mark.parametrize("title", ["Our questions", "Our questions,"])
def test_a_title_above_two_columns(load, write, title):
    rows, remarks = load(write("a.csv", f"{title}\nQuestion,Answer\nx,y\nz,\nu,v\nw,s\n"))
    assert rows[0] == {"Question": "x", "Answer": "y"}
    assert len(rows) == 4
    assert remarks == ["“Our questions” is taken for a title; row 2 names the columns."]


def test_a_title_above_two_columns_of_a_workbook(load, tmp_path):
    rows = [["Our questions", None], [], ["Question", "Answer"], ["x", "y"], ["z", "w"]]
    path = write_xlsx(tmp_path / "a.xlsx", {"One": rows})
    assert load(path)[0] == [{"Question": "x", "Answer": "y"}, {"Question": "z", "Answer": "w"}]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (",text\n0,Hello\n1,World\n", ["column_1", "text"]),  # pandas writes its index so
        ("word,\nHund,dog\nKatze,\nMaus,\n", ["word", "column_2"]),
        ("question,\nWho?,I.\nWhy?,So.\n", ["question", "column_2"]),
    ],
)
def test_what_is_no_title_above_two_columns(load, write, text, names):
    assert [*load(write("a.csv", text))[0][0]] == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "q,a\n1,2\n1,2,3\n",
            (
                "row 3: has 3 cells, but row 1 names 2 columns; a cell with the separator in it "
                "needs quotes. Fix or remove the row."
            ),
        ),
        (
            "q,a\n1,2\n1\n",
            (
                "row 3: has 1 cell, but row 1 names 2 columns; one is missing, or a cell with a "
                "line break in it needs quotes. Fix or remove the row."
            ),
        ),
        ('q,a\n1,2\n"1,2\n3,4\n', "row 3: has a quote that is never closed; it takes in all "),
        ("q,a\n", "has column names (q, a), but no rows below them. Add some."),
        (",,\n,,\n", "holds no rows. Name another."),
    ],
)
def test_the_words_of_a_broken_table(load, write, text, said):
    assert refused(load, write("a.csv", text)).startswith(said)


STRAY = ['"Hi there,x', "b,c", '"Yo man,y', "d,e"]


@pytest.mark.parametrize(
    ("lines_", "said"),
    [
        (
            STRAY,
            "row 2: a cell starts with a quote, but text follows its closing quote in line 4.",
        ),
        (
            ["b,c", '"Hello," he said,x'],
            "row 3: a cell starts with a quote, but text follows its closing quote in line 3.",
        ),
        (STRAY[:2], "row 2: has a quote that is never closed; it takes in all that follows."),
    ],
)
@pytest.mark.parametrize("first", ["", "sep=,\n"])
def test_a_stray_quote_swallows_no_rows(load, write, lines_, said, first):
    path = write("a.csv", f"{first}q,a\n" + "\n".join(lines_))
    if first:
        said = said.replace("line 4", "line 5").replace("line 3", "line 4")
    assert refused(load, path) == (
        f'{said} Put the cell in quotes, and double the quotes inside it: """Hello,"" he said".'
    )


def test_a_stray_quote_far_down_is_found(load, write):
    rows = "".join(f"q{n},a{n}\n" for n in range(20_000))
    path = write("a.csv", f'q,a\n{rows}"x" y,z\n')
    assert refused(load, path).startswith("row 20,002: a cell starts with a quote")


def test_quotes_as_they_should_be_are_no_part_of_the_text(load, write):
    path = write("a.csv", 'q,a\r\n"""Hello,"" he\nsaid","x"\r\n5" wide,""\r\n')
    assert load(path) == ([{"q": '"Hello," he\nsaid', "a": "x"}, {"q": '5" wide', "a": ""}], [])


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
@pytest.mark.parametrize("quoted", [['"Yo man', "w"], ['"Hello," he said', "w"], ['6"', "w"]])
def test_quotes_are_text_where_tabs_alone_make_the_table(load, write, name, quoted):
    cells = [["q", "a"], ["x", "y"], ['"Hi', "z"], ["b", "c"], quoted]
    rows, remarks = load(write(name, "\n".join(map("\t".join, cells))))
    assert [[*row.values()] for row in rows] == cells[1:]
    assert remarks[-1] == (
        "Quotes are read as text, since some of them do not enclose a whole cell."
    )


def test_a_table_with_tabs_keeps_cells_in_quotes(load, write):
    text = 'q\ta\n"one\ttab"\t"say ""hi"""\n"two\nlines"\tx\n'
    expected = [{"q": "one\ttab", "a": 'say "hi"'}, {"q": "two\nlines", "a": "x"}]
    assert load(write("a.tsv", text)) == (expected, [])
    assert "row 4: a cell starts with a quote" in refused(
        load, write("b.tsv", f'{text}"Hello," he said\tx\n')
    )


def test_cells_that_are_empty_beyond_the_names_do_no_harm(load, write):
    assert load(write("a.csv", "q,a,\nx,y\nz,w,,,\n"))[0] == [
        {"q": "x", "a": "y"},
        {"q": "z", "a": "w"},
    ]


def test_a_row_that_cannot_be_used_is_known_by_its_number_and_no_other_is_lost(load, write):
    path = write("a.csv", "prompt,completion\na,b\n\nc,d,e\nf,g\n")
    config = Config(data={"path": path, "split_ratio": 1})
    examples, _ = load_examples(config, "train", is_strict=False)
    assert [examples.origin(n)[1] for n in range(len(examples))] == [2, 4, 5]
    assert examples[2].prompt == "f"
    with pytest.raises(DataError, match="row 4: has 3 cells, but row 1 names 2 columns"):
        examples[1]


def test_rows_are_numbered_as_a_spreadsheet_program_does(load, write):
    path = write("a.csv", "q,a\n1,2\n\n3,4\n")
    rows = load_rows(Dataset(path=path, columns={"z": "q"}, sample_count=2), "train", FIELD)
    assert [number_in_file(rows, place) for place in range(2)] == [2, 4]


def test_a_packed_and_a_streamed_table(load, tmp_path):
    text = "q;a\nx;1,5\n\ny;2\n".encode("cp1252")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text))
    expected = [{"q": "x", "a": "1,5"}, {"q": "y", "a": "2"}]
    assert load(tmp_path / "a.csv.gz") == (
        expected,
        [
            "The cells are separated by semicolons.",
            "1 empty row is left out (row 3).",
        ],
    )
    dataset = Dataset(path=str(tmp_path / "a.csv.gz"))
    assert list(stream_rows(dataset, "train", FIELD)) == expected


# Workbooks


def test_cells_of_a_workbook_are_what_a_person_sees(load, tmp_path):
    names = ["text", "number", "date", "time", "formula", "truth", "none"]
    first = ["Hund", 3.0, ("<v>45415</v>", 's="1"'), ("<v>45415.604166667</v>", 's="2"')]
    first += [("<f>B2*2</f><v>6</v>", ""), True, "x"]
    second = ["1,5", 0.1 + 0.2, ("<v>45415</v>", 's="2"'), ("<v>45415.5</v>", 's="2"')]
    second += [("<f>A2</f><v>Hund</v>", 't="str"'), False, None]
    path = write_xlsx(tmp_path / "a.xlsx", {"One": [names, first, second]})
    rows, remarks = load(path)
    assert rows == [
        dict(zip(names, values, strict=True))
        for values in (
            ["Hund", "3", "2024-05-03", "2024-05-03 14:30", "6", "TRUE", "x"],
            ["1,5", "0.3", "2024-05-03", "2024-05-03 12:00", "Hund", "FALSE", None],
        )
    ]
    assert remarks == []


def test_an_opendocument_spreadsheet(load, tmp_path):
    path = write_ods(tmp_path / "a.ods", [["q", "a"], ["x", 3], ["ü", 2.5]])
    assert load(path) == ([{"q": "x", "a": "3"}, {"q": "ü", "a": "2.5"}], [])


def test_the_first_sheet_with_rows_is_read_unless_another_is_named(load, tmp_path):
    sheets = {"Empty": [], "Words": [["q", "a"], ["x", "y"]], "Tests": [["q", "a"], ["z", "w"]]}
    path = write_xlsx(tmp_path / "a.xlsx", sheets)
    rows, remarks = load(path)
    assert rows == [{"q": "x", "a": "y"}]
    assert remarks == [
        "The sheet “Words” is read. To read another, choose it or name it in subset: “Empty”, “Tests”."
    ]
    assert load(path, subset="Tests")[0] == [{"q": "z", "a": "w"}]
    assert refused(load, path, subset="tset") == (
        "has no sheet “tset”; it has “Empty”, “Words”, “Tests”. Name one of these in subset, or "
        "leave it empty."
    )
    assert refused(load, path, subset="Empty") == "holds no rows. Name another."


def test_merged_cells_titles_and_rows_below_are_said(load, tmp_path):
    rows = [["My words"], [], ["q", "a", None], ["x", "y", "z"], [], ["u", "v"]]
    path = write_xlsx(tmp_path / "a.xlsx", {"One": rows}, merged=["A1:C1", "B3:C3"])
    read, remarks = load(path)
    assert read == [
        {"q": "x", "a": "y", "column_3": "z"},
        {"q": "u", "a": "v", "column_3": None},
    ]
    assert remarks == [
        "Of merged cells (A1:C1, B3:C3), only the first holds the text.",
        "“My words” is taken for a title; row 3 names the columns.",
        "“column_3” is a column without a name in row 3.",
        "1 empty row is left out (row 5).",
    ]


def test_a_broken_or_protected_workbook_is_a_sentence(load, write):
    assert "is not valid .xlsx (" in refused(load, write("a.xlsx", "no zip" * 9))
    assert refused(load, write("b.xlsx", b"\xd0\xcf\x11\xe0" + b"\0" * 99)) == (
        "is protected by a password, or an old workbook under a new name. Save it as .xlsx without "
        "a password."
    )


def test_a_fix_is_written_beside_a_table_and_names_its_rows(tmp_path, tiny_model, load):
    rows = [["prompt", "completion"], ["a", "b"], ["c", "d"], [], ["e", None]]
    path = write_xlsx(tmp_path / "a.xlsx", {"One": rows})
    before = path.read_bytes()
    config = Config(
        model={"model_name": str(tiny_model)}, data={"path": str(path), "split_ratio": 1}
    )
    report = doctor(config)
    finding = next(one for one in report.findings if one.name == "empty_completions")
    assert [place.row for place in finding.places] == [5]
    fixed = report.apply("empty_completions")
    assert path.read_bytes() == before
    written = tmp_path / "a.fixed.jsonl"
    assert fixed.data.train.datasets[0].path == str(written)
    assert [json.loads(line) for line in written.read_text().splitlines()] == [
        {"prompt": "a", "completion": "b"},
        {"prompt": "c", "completion": "d"},
    ]


def test_a_table_without_names_is_suspected(write):
    path = write("a.csv", "How are you?;Wie geht es dir?\nFine.;Gut.\n")
    with pytest.raises(DataError, match="If “How are you\\?” is no name but data, put a row with"):
        load_examples(Config(data={"path": path}), "train")


@pytest.mark.parametrize("columns", [200, 10_000])
def test_a_refusal_of_many_columns_is_short(write, columns):
    names = [f"name{n}" for n in range(columns)]
    path = write("a.csv", ",".join(names) + "\n" + ",".join("x" * columns) + "\n")
    for more in (
        {},
        {"prompt_template": "{q}", "completion_template": "{a}"},
        {"columns": {"a": "q"}},
    ):
        with pytest.raises(DataError) as caught:
            load_examples(Config(data={"path": path, "split_ratio": 1, **more}), "train")
        assert f"{columns - 10:,} more" in str(caught.value)
        assert all(len(str(problem)) < 600 for problem in caught.value.problems)


def test_what_is_told_of_a_large_file_survives_the_process(write, monkeypatch, empty_cache):
    monkeypatch.setattr(lines, "LARGE_BYTES", 0)
    dataset = Dataset(path=write("a.csv", "q;a\nx;y\n"))
    load_rows(dataset, "train", FIELD)
    monkeypatch.setattr(tables, "read_table", None)
    assert remarks_of(load_rows(dataset, "train", FIELD)) == [
        "The cells are separated by semicolons."
    ]
