"""What most rows do, learnt from the rows themselves, and which do not.

`Habits` keeps a few numbers of each row during the pass; the functions below it find habits in them
and return the rows that differ. Called by `measure` and `checks`.
"""

from __future__ import annotations

import array
import collections
import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import py3langid  # type: ignore[import-untyped]

from nbft.data.doctor.kinds import Said

FEWEST_ROWS = 20
"""Of fewer rows nobody can say what most of them do."""

HABIT_SHARE = 0.65
"""A sign in the answers of this share of the rows is a habit: a third may have lost it."""

_END_OF_SENTENCE = ".!?。！？…।؟"
_CLOSING = "\"'”’»)]}*_`"
_LONG_CHARS = 60
_MOST_CHARS = 2**16 - 1  # lengths above count as this
_GLANCE_CHARS = 200
_PROSE_WORDS = 12
_COMMONEST = 50  # words of the usual language
_LEARNT_WORDS = 10_000
_LEARNT_ROWS = 300
_COMMON_SHARE = 0.1
_LISTED = re.compile(r"\s*(?:[-*•]|\d+[.)])|.{0,30}:\s")
MOST_LABELS = 20
_LABEL_CHARS = 40
_STRICT_SHARE = 0.9
_MOST_KEPT = 200  # signs and labels; a habit is among the first

_SIGNS = re.compile(
    r"####|\\boxed|```|</?think>|<[a-z_]{2,20}>|^\s*(?:[A-Z][\w ]{0,20}|[a-z]{3,20}):(?=\s|$)", re.M
)
_FOREIGN = re.compile(
    r"\b(?:translat|language|spanish|french|german|italian|portuguese|russian|chinese|japanese|latin"
    r"|korean|arabic|hindi|dutch|swedish|polish|turkish)",
    re.IGNORECASE,
)
LABEL = re.compile(
    r"[#* ]{0,4}(?P<name>answer|output|response|assistant|AI|chatgpt|gpt)\s?:[*]{0,2}\s+",
    re.IGNORECASE,
)
"""A label at the start of an answer."""

_SHOUTED_WORDS = 3
_WORDS = re.compile(r"[^\W\d_]{3,}")
_NUMBERS = re.compile(r"(?<!\w)\d+(?:[.,]\d+)?")


class Habits:
    """A few numbers of each row.

    Args:
        rows: How many rows there are.

    Attributes:
        chars: Length of the answer, in characters.
        prompt_chars: Length of the last question.
        ends: How the answer ends, a number in `ENDS`.
        is_line: Whether the answer is a single line.
        answer: Hash of the answer.
        spelt: Hash of the answer without case, spaces and signs.
        begin, opening: Hash of the first four words of the answer, and of the first six.
        close, closing: Hash of the last line or sentence of the answer; the same if it has at least
            three words.
        keys: Hash of the keys of an answer that is a JSON object; 1 for other JSON; 0 for none.
        script: The script of most letters of the answer, a number in `SCRIPTS`.
        language: The language of a longer answer that no translation was asked for, a number in
            `languages`; 0 for none.
        shared: Share of the answer's words and numbers that the prompt has, too; NaN without any.
        is_shouted: Whether the answer is in capital letters.
        is_padded: Whether the answer begins or ends with spaces or line breaks that separate nothing.
        is_labelled: Whether the answer begins with a label such as “Answer:”.
        first_asked, first_said: Hash of the first word of the last question, and of the answer.
        asks: 1 if the prompt ends in a question mark, 2 if the answer does, 3 if both do.
    """

    def __init__(self, rows: int) -> None:
        self.chars = np.zeros(rows, np.uint16)
        self.prompt_chars = np.zeros(rows, np.uint16)
        self.ends = np.zeros(rows, np.uint8)
        self.is_line = np.zeros(rows, bool)
        self.answer = np.zeros(rows, np.uint32)
        self.spelt = np.zeros(rows, np.uint32)
        self.begin = np.zeros(rows, np.uint32)
        self.opening = np.zeros(rows, np.uint32)
        self.close = np.zeros(rows, np.uint32)
        self.closing = np.zeros(rows, np.uint32)
        self.keys = np.zeros(rows, np.uint32)
        self.script = np.zeros(rows, np.uint8)
        self.language = np.zeros(rows, np.uint8)
        self.languages = [""]
        self.shared = np.full(rows, np.nan, np.float16)
        self.is_shouted = np.zeros(rows, bool)
        self.is_padded = np.zeros(rows, bool)
        self.is_labelled = np.zeros(rows, bool)
        self.first_asked = np.zeros(rows, np.uint32)
        self.first_said = np.zeros(rows, np.uint32)
        self.asks = np.zeros(rows, np.uint8)
        self.signs: dict[str, array.array[int]] = {}
        self.labels: collections.Counter[str] = collections.Counter()
        self._rows = 0
        self._rows_with: collections.Counter[str] = collections.Counter()
        self._said: dict[str, collections.Counter[str]] = collections.defaultdict(
            collections.Counter
        )

    def add(self, row: int, said: Said) -> None:
        """Record a row."""
        answer, prompt = said.answer.strip(), said.prompt.strip()
        self.chars[row] = min(len(answer), _MOST_CHARS)
        self.prompt_chars[row] = min(len(said.asked.strip()), _MOST_CHARS)
        if not answer:
            return
        words = answer.split(maxsplit=6)
        closing = re.split(r"\n|(?<=[.!?])\s", answer[-200:])[-1]
        self.ends[row] = ENDS.index("sign" if said.is_code else _end(answer))
        self.is_line[row] = "\n" not in answer
        self.answer[row] = crc(answer)
        self.spelt[row] = crc("".join(c for c in answer[:200].casefold() if c.isalnum()) or answer)
        if len(words) > 4:
            self.begin[row] = crc(" ".join(words[:4]))
            self.close[row] = crc(closing)
            if len(words) > 6:
                self.opening[row] = crc(" ".join(words[:6]))
            if len(closing.split()) >= 3:
                self.closing[row] = self.close[row]
        self.keys[row] = _keys(answer)
        script = _script(answer)
        self.script[row] = (
            0 if script == _script(prompt[-200:]) != "LATIN" else SCRIPTS.index(script)
        )
        self.shared[row] = self._shared(prompt, answer)
        if not said.is_code and not _FOREIGN.search(prompt):
            self.language[row] = self._language(answer)
        self.is_shouted[row] = answer.isupper() and len(_WORDS.findall(answer)) >= _SHOUTED_WORDS
        is_apart = not said.answer[:1].isspace() or not said.prompt[-1:].strip()
        self.is_padded[row] = said.answer != answer and is_apart and not said.is_code
        label = LABEL.match(answer)
        self.is_labelled[row] = label is not None and label["name"].lower() not in prompt.lower()
        self.first_asked[row], self.first_said[row] = _first(said.asked), _first(answer)
        self.asks[row] = prompt.endswith("?") + 2 * answer.endswith("?")
        for sign in {match[0].strip() for match in _SIGNS.finditer(answer[-4000:])}:
            if len(self.signs) < _MOST_KEPT or sign in self.signs:
                self.signs.setdefault(sign, array.array("I")).append(row)
        if len(answer) <= _LABEL_CHARS and (len(self.labels) < _MOST_KEPT or answer in self.labels):
            self.labels[answer] += 1

    def keep(self, rows: np.ndarray) -> None:
        """Forget all rows but some.

        Args:
            rows: Which rows to keep, a flag for each.
        """
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[rows])
        new = np.cumsum(rows, dtype=np.uint32) - 1
        for sign, having in self.signs.items():
            old = np.array(having, np.int64)
            self.signs[sign] = array.array("I", new[old[rows[old]]].tolist())

    def forget(self) -> None:
        """Forget what is needed during the pass only."""
        self._rows_with.clear()

    def _shared(self, prompt: str, answer: str) -> float:
        """Return the share of the answer's words and numbers that the prompt has; NaN of few.

        Words that many rows have do not count.
        """
        said = {
            *_words(answer[: 10 * _GLANCE_CHARS]),
            *_NUMBERS.findall(answer[: 10 * _GLANCE_CHARS]),
        }
        asked = {
            *_words(prompt[-20 * _GLANCE_CHARS :]),
            *_NUMBERS.findall(prompt[-20 * _GLANCE_CHARS :]),
        }
        own = {word for word in said if self._rows_with[word] <= _COMMON_SHARE * (self._rows + 1)}
        if self._rows < _LEARNT_ROWS:
            self._rows += 1
            self._rows_with.update(said | asked)
        return len(own & asked) / len(own) if len(own) >= 5 else np.nan

    def _language(self, answer: str) -> int:
        """Return the number of the language of an answer at a glance, 0 if it is too short to tell."""
        words = _words(answer[:_GLANCE_CHARS])
        if len(words) < _PROSE_WORDS:
            return 0
        code = py3langid.classify(" ".join(words))[0]
        if code not in self.languages:
            self.languages.append(code)
        said = self._said[code]
        if said.total() < _LEARNT_WORDS:
            said.update({*words})
        return self.languages.index(code)

    def is_other_language(self, usual: str, prompt: str, answer: str) -> bool:
        """Whether a whole answer is in another language than the usual one, and was not asked for so.

        Names and lists mislead a glance, so one with some of the commonest words of the usual
        language does not count.
        """
        words = _words(answer[: 10 * _GLANCE_CHARS])
        common = {word for word, _ in self._said[usual].most_common(_COMMONEST)}
        code = py3langid.classify(" ".join(words))[0]
        is_usual = code == usual or len(common & {*words}) >= 2
        return not is_usual and py3langid.classify(prompt[-10 * _GLANCE_CHARS :])[0] != code


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(text)]


def _first(text: str) -> int:
    word = _WORDS.search(text[:_GLANCE_CHARS])
    return crc(word[0].casefold()) if word else 0


ENDS = ("", "sentence", "word", "few", "comma", "sign")
"""How an answer may end: not at all, with a sentence, amid prose, with a word of a short line or list,
with a comma or a word that needs another, otherwise."""


def _end(answer: str) -> str:
    bare = answer.rstrip(_CLOSING)
    last = bare[-1:] or answer[-1]
    if last in _END_OF_SENTENCE or answer.endswith("```"):
        return "sentence"
    if last in ",:–(" or re.search(r"\b(?:and|or|the|a|an|of|to|in|with|for|is|are)$", bare[-8:]):
        return "comma"
    line = answer.rsplit("\n", 1)[-1]
    is_prose = len(line.split()) >= _PROSE_WORDS and not _LISTED.match(line) and "#" not in line
    if not last.isalpha():
        return "sign"
    return "word" if is_prose else "few"


def crc(text: str) -> int:
    """Return the hash of an answer, as `Habits.answer` has it; never 0."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) or 1


def _keys(answer: str) -> int:
    if answer[:1] not in ("{", "["):
        return 0
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        return 0
    return crc("\0".join(sorted(map(str, found)))) if isinstance(found, dict) else 1


SCRIPTS = ("", "LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "CJK", "HIRAGANA",
           "KATAKANA", "HANGUL", "THAI", "other")  # fmt: skip
"""Scripts that are told apart, by the first word of their characters' names."""


def _script(text: str) -> str:
    if text.isascii():
        return "LATIN" if any(c.isalpha() for c in text[:200]) else ""
    counts = collections.Counter(
        unicodedata.name(c, "other").partition(" ")[0] for c in text[:200] if c.isalpha()
    )
    if not counts:
        return ""
    name = counts.most_common(1)[0][0]
    return name if name in SCRIPTS else "other"


# What most rows do

_NONE = np.zeros(0, np.int64)


def _where(rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    found: np.ndarray = rows[mask]
    return found


def without_sign(habits: Habits, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield signs such as #### or “Answer:” that most answers have, and the rows without.

    Args:
        habits: What was recorded.
        rows: The rows to look at.
    """
    if len(rows) < FEWEST_ROWS:
        return
    for sign, having in habits.signs.items():
        lacking = np.setdiff1d(rows, np.array(having, np.int64))
        if 0 < len(lacking) <= (1 - HABIT_SHARE) * len(rows):
            yield sign, lacking


def without_json(habits: Habits, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose answer is no JSON where most are, and those with other keys than most."""
    if len(rows) < FEWEST_ROWS:
        return _NONE, _NONE
    keys = habits.keys[rows]
    broken = rows[keys == 0]
    if len(broken) > (1 - HABIT_SHARE) * len(rows):
        return _NONE, _NONE
    values, counts = np.unique(keys[keys > 0], return_counts=True)
    others = rows[(keys > 0) & (keys != values[counts.argmax()])]
    is_habit = len(others) <= (1 - HABIT_SHARE) * len(rows)
    return broken, others if is_habit else _NONE


def cut_short(habits: Habits, rows: np.ndarray) -> np.ndarray:
    """Return the rows whose answer stops in mid-sentence, where long answers end with one."""
    is_long = habits.chars[rows] >= _LONG_CHARS
    found = _open(habits, rows[is_long])
    if habits.is_line[rows].sum() < _STRICT_SHARE * len(rows):
        return found  # short answers may be titles and labels
    return np.concatenate([found, _open(habits, rows[~is_long])])


def _open(habits: Habits, rows: np.ndarray) -> np.ndarray:
    """Return the rows whose answer stops in mid-sentence, if the others end with one."""
    ends = habits.ends[rows]
    whole = (ends == ENDS.index("sentence")).sum()
    if len(rows) < FEWEST_ROWS or whole < HABIT_SHARE * len(rows):
        return _NONE
    open_ = (ends == ENDS.index("comma")) | (ends == ENDS.index("word"))
    if habits.is_line[rows].mean() >= _STRICT_SHARE:
        open_ |= ends == ENDS.index("few")  # there are no lists
    return _where(rows, open_)


def few_with(flags: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows that have something, where most do not."""
    having = rows[flags[rows]]
    is_habit = len(having) > (1 - HABIT_SHARE) * len(rows)
    return _NONE if is_habit or len(rows) < FEWEST_ROWS else having


def much_shorter(habits: Habits, rows: np.ndarray) -> np.ndarray:
    """Return the rows whose answer is a tenth as long as usual or less, where lengths are alike."""
    if len(rows) < FEWEST_ROWS:
        return _NONE
    chars = habits.chars[rows]
    low, usual = np.quantile(chars, [1 - HABIT_SHARE, 0.5])
    are_alike = low >= 0.5 * usual and usual >= _LONG_CHARS
    return _where(rows, chars <= 0.1 * usual) if are_alike else _NONE


def without_prompt(habits: Habits, rows: np.ndarray) -> np.ndarray:
    """Return the rows without a question, where most have one."""
    lacking = rows[habits.prompt_chars[rows] == 0]
    return lacking if len(rows) > 2 and len(lacking) <= (1 - HABIT_SHARE) * len(rows) else _NONE


def other_script(habits: Habits, rows: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the script of most answers, and the rows that are written in another."""
    scripts = habits.script[rows]
    known = rows[scripts > 0]
    if len(known) < FEWEST_ROWS:
        return "", _NONE
    counts = np.bincount(habits.script[known], minlength=len(SCRIPTS))
    usual = int(counts.argmax())
    others = known[habits.script[known] != usual]
    if len(others) > (1 - HABIT_SHARE) * len(known):
        return "", _NONE
    return SCRIPTS[usual], others


def other_language(habits: Habits, rows: np.ndarray) -> tuple[str, np.ndarray]:
    """Return the language of most longer answers, as a code, and the rows that seem to be in another."""
    known = rows[habits.language[rows] > 0]
    counts = np.bincount(habits.language[known], minlength=2)
    usual = int(counts.argmax())
    others = known[habits.language[known] != usual]
    # Short answers are of no known language, so that a third of the rows may be half of the known.
    if len(known) < FEWEST_ROWS or len(others) > 0.45 * len(known):
        return "", _NONE
    return habits.languages[usual], others


def same_answer(habits: Habits, rows: np.ndarray) -> np.ndarray:
    """Return the rows that share one answer, where they are one in thirty or more and it is no label."""
    long = rows[habits.chars[rows] > 0]
    if len(long) < FEWEST_ROWS:
        return _NONE
    values, counts = np.unique(habits.answer[long], return_counts=True)
    is_rare = counts.max() < max(5, 0.03 * len(long))
    # Labels and numbers are short, and come again.
    are_short = np.median(habits.chars[long]) <= _LABEL_CHARS
    if is_rare or (are_short and counts.max() < 0.95 * len(long)):
        return _NONE
    return _where(long, habits.answer[long] == values[counts.argmax()])


def are_labels(habits: Habits, total: int) -> bool:
    """Whether the answers are a few labels."""
    common = habits.labels.most_common(MOST_LABELS)
    return sum(number for _, number in common) >= 0.9 * total and total >= 5 * len(common)


def boilerplate(habits: Habits, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that begin with the same words, and those that end with the same line.

    A few words may be the usual way to begin; more of them hardly come again by chance.
    """

    def common(few: np.ndarray, many: np.ndarray) -> np.ndarray:
        return np.union1d(
            _repeated(rows, few, FEW_WORDS_SHARE), _repeated(rows, many, MANY_WORDS_SHARE)
        )

    if len(rows) < FEWEST_ROWS:
        return _NONE, _NONE
    begin = common(habits.begin[rows], habits.opening[rows])
    return begin, common(habits.close[rows], habits.closing[rows])


def _repeated(rows: np.ndarray, hashes: np.ndarray, share: float) -> np.ndarray:
    """Return the rows whose hash this share of them have, and at least six."""
    values, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    is_common = (values > 0) & (counts >= max(6, share * len(rows)))
    return _where(rows, is_common[inverse])


FEW_WORDS_SHARE = 0.25
"""From this share of the answers on, the same four words at their start, or any same line at their
end, are boilerplate."""

MANY_WORDS_SHARE = 0.04
"""The same for six words at the start, or three at the end. In Alpaca, GSM8K and DialogSum at most 1.2%
of the answers begin with the same six words."""


def unrelated(habits: Habits, rows: np.ndarray) -> np.ndarray:
    """Return the rows whose answer shares next to no word with its prompt, where nearly all share many."""
    shared = habits.shared[rows].astype(np.float32)
    known = ~np.isnan(shared) & (habits.prompt_chars[rows] >= _LONG_CHARS)
    if known.sum() < FEWEST_ROWS:
        return _NONE
    typical, low = np.quantile(shared[known], [0.6, 1 - HABIT_SHARE])
    strangers = known & (shared == 0)
    # Answers that are found in their prompts have most words from there, also the lowest third.
    return _where(rows, strangers) if typical >= 0.4 and low > 0.5 * typical else _NONE


def share_numbers(said: Said) -> bool:
    """Whether a prompt and its answer have two numbers in common, however usual these are."""
    return len({*_NUMBERS.findall(said.prompt)} & {*_NUMBERS.findall(said.answer)}) >= 2


def swapped(habits: Habits, rows: np.ndarray) -> np.ndarray:
    """Return the rows that are the other way round: the answer asks, or is the long part.

    Where most prompts ask, or nearly all are twice as long as their answers. Else, those whose answer
    begins with a word that prompts begin with (“Write”), and whose prompt does not.
    """
    if len(rows) < FEWEST_ROWS:
        return _NONE
    asks, ratio = habits.asks[rows], habits.chars[rows] / np.maximum(habits.prompt_chars[rows], 1)
    short, long = ratio < 0.5, ratio > 2
    do_ask = (asks == 1).sum() >= HABIT_SHARE * len(rows)
    are_long = short.mean() >= HABIT_SHARE and (short | long).mean() >= _STRICT_SHARE
    if not do_ask and not are_long:
        return _where(rows, _begins_like_a_prompt(habits, rows))
    return _where(rows, (do_ask & (asks == 2)) | (are_long & long))


def _begins_like_a_prompt(habits: Habits, rows: np.ndarray) -> np.ndarray:
    """Return for which rows the first word of the answer is one of prompts, and that of the prompt not."""
    asked, said = habits.first_asked[rows], habits.first_said[rows]
    words = np.unique(np.concatenate([asked, said]))
    prompts, answers = (
        np.bincount(np.searchsorted(words, of), minlength=len(words)) for of in (asked, said)
    )
    is_asking = (words > 0) & (prompts >= 5) & (prompts >= 4 * answers)
    is_telling = answers > prompts
    found: np.ndarray = (
        is_asking[np.searchsorted(words, said)] & is_telling[np.searchsorted(words, asked)]
    )
    return found


def misspelt_labels(labels: Iterable[tuple[str, int]]) -> dict[str, str]:
    """Return labels that are another one in other letters or with one slip, and the usual spelling.

    >>> misspelt_labels([("positive", 90), ("negative", 80), ("Positive ", 3), ("negtive", 1)])
    {'Positive ': 'positive', 'negtive': 'negative'}
    """
    import difflib

    ranked = sorted(labels, key=lambda pair: -pair[1])
    usual: list[tuple[str, int]] = []
    wrong: dict[str, str] = {}
    for label, number in ranked:
        bare = _plain(label)
        for known, times in usual:
            plain = _plain(known)
            is_same = bool(bare) and bare == plain
            is_near = (
                min(len(bare), len(plain)) >= 5
                and bare not in plain
                and plain not in bare
                and not any(c.isdigit() for c in bare + plain)
                and difflib.SequenceMatcher(None, bare, plain).ratio() >= 0.85
            )
            if is_same or (is_near and number <= 0.1 * times):
                wrong[label] = known
                break
        else:
            usual.append((label, number))
    return wrong


def _plain(label: str) -> str:
    return " ".join(label.casefold().split()).strip("\"'“”‘’`.")
