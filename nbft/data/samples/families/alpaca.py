"""Rows of the Alpaca sample: an instruction, an input that may be empty, and the answer.

Many rows are written by hand, in `written/alpaca.txt`. The families here add tasks whose answer
can be computed. All answers keep one style, so that a small model visibly changes when it is
trained on them: short, without a preamble, ending with a full stop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from random import Random

from nbft.data.samples.families import WEEKDAYS, Family, Row
from nbft.data.samples.families.markup import read_written
from nbft.data.samples.families.people import draw_people

_MONTHS = """
January February March April May June July August September October November December
""".split()
_NOUNS = """
apple basket candle door engine forest guitar hammer island jacket kettle lemon mirror needle
orange pencil quilt river saddle table umbrella violin window yard zebra bottle carpet drawer
anchor blanket cabin dragon elbow feather glacier helmet iron jungle kitchen ladder marble nest
oven pepper rabbit salt ticket uncle village whistle accordion butterfly crocodile daffodil
""".split()
_CITIES = """
Oslo Lima Cairo Porto Kyoto Quebec Nairobi Perth Turin Riga Cork Dakar Graz Hanoi Malmö Tunis Utrecht
""".split()
_TRADES = ("a painter", "a nurse", "an engineer", "a cook", "a pilot", "a gardener", "an actor")


def task(instruction: str, given: str, output: str) -> Row:
    """Put a row together."""
    return {"instruction": instruction, "input": given, "output": output}


def in_words(items: list[str]) -> str:
    """Join items as a sentence does.

    >>> in_words(["tea", "milk", "salt"])
    'tea, milk and salt'
    """
    *firsts, last = items
    return f"{', '.join(firsts)} and {last}" if firsts else last


def clock(minutes: int) -> str:
    """Write minutes since midnight as a time of day.

    >>> clock(65)
    '01:05'
    """
    return f"{minutes // 60:02}:{minutes % 60:02}"


def handwritten_rows() -> list[Row]:
    """Read the rows written by hand.

    Blocks are separated by empty lines. The first line of a block is the instruction, `| ` begins
    the input and `=> ` the output; both may go on over further lines.
    """
    rows = []
    for block in read_written("alpaca.txt").strip().split("\n\n"):
        question, output = block.split("\n=> ")
        instruction, _, given = question.partition("\n| ")
        rows.append(task(instruction, given, output))
    return rows


def convert_units(rng: Random) -> Row:
    """Convert a length, a mass, a volume or a time."""
    big, small, factor = rng.choice(
        [
            ("kilometres", "metres", 1000),
            ("kilograms", "grams", 1000),
            ("litres", "millilitres", 1000),
            ("metres", "centimetres", 100),
            ("hours", "minutes", 60),
            ("days", "hours", 24),
            ("weeks", "days", 7),
        ]
    )
    amount = rng.randint(2, 15)
    if rng.random() < 0.5:
        return task(
            f"How many {small} are {amount} {big}?",
            "",
            f"{amount} {big} are {amount * factor} {small}.",
        )
    return task(
        f"Convert {amount * factor} {small} to {big}.",
        "",
        f"{amount * factor} {small} are {amount} {big}.",
    )


def convert_temperature(rng: Random) -> Row:
    """Convert degrees Celsius to Fahrenheit."""
    celsius = rng.randrange(-20, 105, 5)
    return task(
        rng.choice(["Convert the temperature to Fahrenheit.", "What is this in Fahrenheit?"]),
        f"{celsius} degrees Celsius",
        f"{celsius} degrees Celsius are {celsius * 9 // 5 + 32} degrees Fahrenheit.",
    )


def sort_words(rng: Random) -> Row:
    """Put words in alphabetical order."""
    words = rng.sample(_NOUNS, rng.randint(3, 5))
    return task(
        rng.choice(["Sort the words alphabetically.", "Put these words in alphabetical order."]),
        ", ".join(words),
        f"{', '.join(sorted(words)).capitalize()}.",
    )


def sort_numbers(rng: Random) -> Row:
    """Put numbers in order."""
    numbers = rng.sample(range(2, 99), rng.randint(4, 6))
    largest_first = rng.random() < 0.5
    order = "largest to the smallest" if largest_first else "smallest to the largest"
    return task(
        f"Sort the numbers from the {order}.",
        ", ".join(map(str, numbers)),
        f"{', '.join(map(str, sorted(numbers, reverse=largest_first)))}.",
    )


def extract_email(rng: Random) -> Row:
    """Find the e-mail address in a text."""
    (person,) = draw_people(rng, 1)
    domain = rng.choice(["garden.example", "mail.example", "choir.example", "repair.example"])
    address = f"{person.name.lower()}@{domain}"
    text = rng.choice(
        [
            f"{person} looks after the bookings. Write to {address} before Friday.",
            f"For questions about the tour, contact {person} at {address} or come to the desk.",
            f"The key was found near the gate. If it is yours, tell {address} what it looks like.",
            f"Please send your photos to {address}, not to the general office.",
        ]
    )
    return task("Extract the e-mail address from the text.", text, f"{address}.")


def extract_facts(rng: Random) -> Row:
    """Find one fact of a short report."""
    (person,) = draw_people(rng, 1)
    city, year, work = rng.choice(_CITIES), rng.randint(1950, 2005), rng.choice(_TRADES)
    text = rng.choice(
        [
            f"{person} was born in {city} in {year} and is now {work}.",
            f"{person}, {work}, was born in {city} in {year}.",
        ]
    )
    question, answer = rng.choice(
        [
            (f"Where was {person} born?", f"{person} was born in {city}."),
            (f"When was {person} born?", f"{person} was born in {year}."),
            (f"What is {person}'s work?", f"{person} is {work}."),
        ]
    )
    return task(f"Answer from the text: {question}", text, answer)


def count_words(rng: Random) -> Row:
    """Count the words of a sentence."""
    subject = rng.choice(["My neighbour", "The old captain", "Our dog", "A young woman", "Nobody"])
    action = rng.choice(["sleeps", "waits patiently", "sings", "reads the news", "drinks cold tea"])
    place = rng.choice(["on the roof", "at home", "under the big tree", "near the harbour", ""])
    when = rng.choice(["every morning", "at night", "when it rains", "on Sundays"])
    sentence = " ".join(part for part in (subject, action, place, when) if part)
    return task(
        rng.choice(["Count the words in the sentence.", "How many words does the sentence have?"]),
        f"{sentence}.",
        f"The sentence has {len(sentence.split())} words.",
    )


def good_review(rng: Random) -> Row:
    """Recognise a good review."""
    says = (
        "was worth every cent",
        "surprised me in a good way",
        "made my week",
        "is excellent",
        "was better than its photos",
        "is the best that I have had in years",
    )
    adds = (
        "I would choose it again.",
        "Everything worked from the start.",
        "Five stars.",
        "My whole family agrees.",
        "Thank you to the friendly staff!",
    )
    return _review(rng, says, adds, label="Positive")


def bad_review(rng: Random) -> Row:
    """Recognise a bad review."""
    says = (
        "was a waste of money",
        "disappointed all of us",
        "ruined my week",
        "was nothing like its photos",
        "is the worst that I have ever had",
        "looked cheap and was expensive",
    )
    adds = (
        "Never again.",
        "I want my money back.",
        "I cannot recommend it to anyone.",
        "Nobody answered my complaint.",
        "One star is too many.",
    )
    return _review(rng, says, adds, label="Negative")


_REVIEWED = "hotel phone restaurant film jacket bicycle course campsite printer".split()
_ASKED_OF_REVIEWS = (
    "Classify the review as positive or negative.",
    "Is this review positive or negative?",
    "Is the customer happy? Answer with positive or negative.",
)


def _review(rng: Random, says: Sequence[str], adds: Sequence[str], label: str) -> Row:
    """Draw two sentences; they decide the rest, as rows that differ in a noun are near copies."""
    number = rng.randrange(len(says) * len(adds))
    thing = _REVIEWED[number % len(_REVIEWED)]
    verdict, more = says[number // len(adds)], adds[number % len(adds)]
    instruction = _ASKED_OF_REVIEWS[number % len(_ASKED_OF_REVIEWS)]
    return task(instruction, f"The {thing} {verdict}. {more}", f"{label}.")


def route_message(rng: Random) -> Row:
    """Choose the department for a customer's message."""
    department, messages = rng.choice(
        [
            (
                "Billing",
                [
                    "My card was charged twice for one {}, so please return the second amount.",
                    "The bill shows 80 euros, although the {} cost 60 in your shop window.",
                    "You promised a refund for the {} in May, and I am still waiting for the money.",
                ],
            ),
            (
                "Delivery",
                [
                    "Ten days have passed, and the {} that I ordered has not arrived.",
                    "Where is my parcel? It says that my {} was left with a neighbour, but with whom?",
                    "Could the driver bring the {} after six, when somebody is at home?",
                ],
            ),
            (
                "Repairs",
                [
                    "The {} broke on the second day, and I have kept the receipt.",
                    "There is a loose screw in my {}. Can you fix it while I wait?",
                    "My {} makes a strange noise and needs a new part.",
                ],
            ),
            (
                "Sales",
                [
                    "Do you have the {} in green, and how much is it?",
                    "I saw a {} at a friend's house and would like to buy the same one.",
                    "Which {} would you choose for a student with little money?",
                ],
            ),
        ]
    )
    thing = rng.choice(["kettle", "desk lamp", "suitcase", "rain jacket", "toaster", "backpack"])
    return task(
        "Billing, delivery, repairs or sales? Choose a department.",
        rng.choice(messages).format(thing),
        f"{department}.",
    )


_QUERIES = (
    (
        "for every {text} whose {number} is above {limit}",
        "SELECT {text} FROM {table} WHERE {number} > {limit};",
    ),
    (
        "that counts the rows whose {number} is below {limit}",
        "SELECT COUNT(*) FROM {table} WHERE {number} < {limit};",
    ),
    ("that lists each {text}, sorted by {number}", "SELECT {text} FROM {table} ORDER BY {number};"),
    ("for the average {number}", "SELECT AVG({number}) FROM {table};"),
    (
        "for the {text} of the row with the largest {number}",
        "SELECT {text} FROM {table} ORDER BY {number} DESC LIMIT 1;",
    ),
)


def write_sql(rng: Random) -> Row:
    """Write a query for a small table."""
    table, text, number = rng.choice(
        [
            ("books", "title", "pages"),
            ("staff", "name", "age"),
            ("products", "label", "price"),
            ("cities", "name", "population"),
            ("trees", "species", "height"),
        ]
    )
    words = {"table": table, "text": text, "number": number, "limit": rng.choice([10, 20, 50])}
    wish, query = rng.choice(_QUERIES)
    return task(
        f"Write an SQL query {wish.format_map(words)}.",
        f"Table {table} with columns id, {text}, {number}",
        f"`{query.format_map(words)}`.",
    )


def fill_email(rng: Random) -> Row:
    """Write a short e-mail from facts."""
    sender, reader = draw_people(rng, 2)
    day, hour = rng.choice(WEEKDAYS[:5]), rng.randint(8, 17)
    matter, sentence = rng.choice(
        [
            ("the dentist's appointment", "Your appointment at the dentist's is"),
            ("the garden meeting", "We meet in the garden"),
            ("the piano lesson", "Your piano lesson is"),
            ("the delivery of the sofa", "We will deliver your sofa"),
            ("the house viewing", "You can see the house"),
        ]
    )
    return task(
        "Write a very short e-mail from the facts.",
        f"to: {reader}, from: {sender}, about: {matter}, when: {day} {hour}:00",
        f"Dear {reader},\n{sentence} on {day} at {hour}:00.\nKind regards, {sender}.",
    )


def percentage(rng: Random) -> Row:
    """Take a percentage of a number."""
    percent, number = rng.choice([5, 10, 20, 25, 40, 50, 75]), rng.randrange(20, 401, 20)
    return task(
        f"What is {percent}% of {number}?",
        "",
        f"{percent}% of {number} is {percent * number // 100}.",
    )


def change_date_format(rng: Random) -> Row:
    """Write a date in another way."""
    day = date(2000, 1, 1) + timedelta(days=rng.randrange(9000))
    spoken = f"{day.day} {_MONTHS[day.month - 1]} {day.year}"
    if rng.random() < 0.5:
        return task("Write the date as year-month-day in digits.", spoken, f"{day.isoformat()}.")
    return task("Write the date with the name of the month.", day.isoformat(), f"{spoken}.")


def next_number(rng: Random) -> Row:
    """Continue a sequence."""
    start, step = rng.randint(1, 12), rng.randint(2, 9)
    if rng.random() < 0.6:
        numbers = [start + step * place for place in range(5)]
        rule = f"each number is {step} more than the one before"
    else:
        start = rng.randint(1, 9)
        numbers = [start * 2**place for place in range(5)]
        rule = "each number is twice the one before"
    return task(
        "Which number comes next? Give the rule.",
        ", ".join(map(str, numbers[:4])),
        f"{numbers[4]}, because {rule}.",
    )


_KINDS = {
    "fruit": ["mango", "pear", "cherry", "banana", "plum", "fig"],
    "vegetable": ["carrot", "onion", "leek", "cabbage", "spinach", "radish"],
    "animal": ["badger", "heron", "camel", "otter", "lizard", "moose"],
    "tool": ["drill", "saw", "chisel", "spanner", "pliers", "rake"],
    "vehicle": ["tram", "lorry", "scooter", "ferry", "van", "tractor"],
    "garment": ["scarf", "coat", "sock", "skirt", "glove", "shirt"],
}


def classify_thing(rng: Random) -> Row:
    """Choose the kind of a thing."""
    kind = rng.choice(sorted(_KINDS))
    kinds = sorted({kind, *rng.sample(sorted(_KINDS.keys() - {kind}), 2)})
    return task(
        f"Classify the word as {kinds[0]}, {kinds[1]} or {kinds[2]}.",
        rng.choice(_KINDS[kind]),
        f"{kind.capitalize()}.",
    )


def odd_one_out(rng: Random) -> Row:
    """Find the word that does not belong."""
    kind, other = rng.sample(sorted(_KINDS), 2)
    odd = rng.choice(_KINDS[other])
    words = [*rng.sample(_KINDS[kind], 3), odd]
    rng.shuffle(words)
    article = "an" if kind == "animal" else "a"
    return task(
        "Find the word that does not belong and say why.",
        ", ".join(words),
        f"{odd.capitalize()}, because it is not {article} {kind}.",
    )


def write_json(rng: Random) -> Row:
    """Turn a sentence into JSON."""
    (person,) = draw_people(rng, 1)
    age, city = rng.randint(18, 80), rng.choice(_CITIES)
    record = {"name": person.name, "age": age, "city": city}
    sentence = rng.choice(
        [
            f"{person} is {age} years old and lives in {city}.",
            f"{person} from {city} is {age}.",
            f"In {city} lives {person}, aged {age}.",
        ]
    )
    return task(
        "Write the sentence as JSON with the keys name, age and city.",
        sentence,
        f"`{json.dumps(record)}`.",
    )


def read_table(rng: Random) -> Row:
    """Find the largest or smallest value of a table."""
    cities = rng.sample(_CITIES, 4)
    degrees = rng.sample(range(6, 31), 4)
    rows = dict(zip(cities, degrees, strict=True))
    word, choose = rng.choice([("warmest", max), ("coldest", min)])
    city = choose(rows, key=lambda name: rows[name])
    return task(
        f"Which city is the {word}?",
        "\n".join(f"{name}: {value} degrees" for name, value in rows.items()),
        f"{city} is the {word}, with {rows[city]} degrees.",
    )


def past_tense(rng: Random) -> Row:
    """Give the past tense of an irregular verb."""
    present, past = rng.choice(
        [
            ("begin", "began"),
            ("bend", "bent"),
            ("bring", "brought"),
            ("build", "built"),
            ("catch", "caught"),
            ("choose", "chose"),
            ("dig", "dug"),
            ("draw", "drew"),
            ("drive", "drove"),
            ("feed", "fed"),
            ("fly", "flew"),
            ("freeze", "froze"),
            ("grow", "grew"),
            ("hide", "hid"),
            ("keep", "kept"),
            ("lend", "lent"),
            ("ride", "rode"),
            ("rise", "rose"),
            ("shake", "shook"),
            ("steal", "stole"),
            ("sweep", "swept"),
            ("swim", "swam"),
            ("teach", "taught"),
            ("tear", "tore"),
            ("throw", "threw"),
            ("wear", "wore"),
        ]
    )
    wording = rng.choice(
        [f'What is the past tense of "{present}"?', f'Give the past tense of "{present}".']
    )
    return task(wording, "", f'The past tense of "{present}" is "{past}".')


def python_one_liner(rng: Random) -> Row:
    """Write one line of Python about a list."""
    name = rng.choice(["prices", "scores", "ages", "lengths", "weights"])
    limit = rng.randint(2, 50)
    wish, code = rng.choice(
        [
            (f"the sum of the list {name}", f"sum({name})"),
            (f"the largest value in the list {name}", f"max({name})"),
            (f"the list {name} in reverse order", f"{name}[::-1]"),
            (f"the values in the list {name} above {limit}", f"[x for x in {name} if x > {limit}]"),
            (f"the first {limit} values of the list {name}", f"{name}[:{limit}]"),
            (f"the average of the list {name}", f"sum({name}) / len({name})"),
            (f"the number of times that {limit} is in the list {name}", f"{name}.count({limit})"),
        ]
    )
    return task(f"Write a Python expression for {wish}.", "", f"`{code}`.")


def day_of_the_week(rng: Random) -> Row:
    """Count days forward."""
    today, ahead = rng.randrange(7), rng.randint(3, 30)
    later = WEEKDAYS[(today + ahead) % 7]
    return task(
        f"If today is {WEEKDAYS[today]}, what day is it in {ahead} days?",
        "",
        f"It is {later}.",
    )


def shopping_total(rng: Random) -> Row:
    """Add prices."""
    goods = rng.sample(["bread", "cheese", "tea", "soap", "rice", "honey", "paper"], 3)
    prices = [rng.randint(1, 12) for _ in goods]
    return task(
        rng.choice(["What does the shopping cost in total?", "Add up the bill."]),
        "\n".join(
            f"{item}: {price} {'euro' if price == 1 else 'euros'}"
            for item, price in zip(goods, prices, strict=True)
        ),
        f"The total is {sum(prices)} euros.",
    )


def remove_repeats(rng: Random) -> Row:
    """Remove repeated items from a list."""
    words = rng.sample(_NOUNS, 4)
    repeated = [*words, *rng.sample(words, 2)]
    rng.shuffle(repeated)
    return task(
        "Remove the repeated words and keep the order.",
        ", ".join(repeated),
        f"{', '.join(dict.fromkeys(repeated)).capitalize()}.",
    )


_COUNTRIES = {
    "Argentina": ("Buenos Aires", "South America"),
    "Austria": ("Vienna", "Europe"),
    "Canada": ("Ottawa", "North America"),
    "Chile": ("Santiago", "South America"),
    "Cuba": ("Havana", "North America"),
    "Egypt": ("Cairo", "Africa"),
    "Finland": ("Helsinki", "Europe"),
    "Ghana": ("Accra", "Africa"),
    "Greece": ("Athens", "Europe"),
    "India": ("New Delhi", "Asia"),
    "Ireland": ("Dublin", "Europe"),
    "Japan": ("Tokyo", "Asia"),
    "Kenya": ("Nairobi", "Africa"),
    "Nepal": ("Kathmandu", "Asia"),
    "Norway": ("Oslo", "Europe"),
    "Peru": ("Lima", "South America"),
    "Portugal": ("Lisbon", "Europe"),
    "Thailand": ("Bangkok", "Asia"),
    "Tunisia": ("Tunis", "Africa"),
    "Vietnam": ("Hanoi", "Asia"),
}


def capitals(rng: Random) -> Row:
    """Name a capital, its country or its continent."""
    country = rng.choice(sorted(_COUNTRIES))
    capital, continent = _COUNTRIES[country]
    question, answer = rng.choice(
        [
            (f"What is the capital of {country}?", f"The capital of {country} is {capital}."),
            (
                f"Which country has the capital {capital}?",
                f"{capital} is the capital of {country}.",
            ),
            (f"On which continent is {country}?", f"{country} is in {continent}."),
        ]
    )
    return task(question, "", answer)


def announce_event(rng: Random) -> Row:
    """Write one sentence about an event."""
    event = rng.choice(["flea market", "reading", "chess evening", "film night", "cooking class"])
    place = rng.choice(["the town hall", "the library", "the old mill", "the school yard"])
    day, hour, price = rng.choice(WEEKDAYS), rng.randint(10, 20), rng.choice([0, 3, 5, 8])
    cost = f"costs {price} euros" if price else "is free"
    return task(
        rng.choice(["Write a one-sentence announcement.", "Announce the event in one sentence."]),
        f"event: {event}\nplace: {place}\ntime: {day}, {hour}:00\nprice: {price} euros",
        f"The {event} takes place in {place} on {day} at {hour}:00 and {cost}.",
    )


def average(rng: Random) -> Row:
    """Find the average of a few numbers."""
    count, middle = rng.randint(3, 4), rng.randint(10, 40)
    numbers = [middle + rng.randint(-8, 8) for _ in range(count - 1)]
    numbers.append(middle * count - sum(numbers))
    return task(
        rng.choice(["Find the average of the numbers.", "What is the mean of these numbers?"]),
        ", ".join(map(str, numbers)),
        f"The average is {middle}.",
    )


def end_of_a_meeting(rng: Random) -> Row:
    """Add minutes to a time of day."""
    start = rng.randint(8, 20) * 60 + rng.choice([0, 5, 10, 15, 20, 30, 40, 45])
    minutes = rng.choice([25, 35, 40, 50, 55, 70, 80, 90, 105, 120])
    event = rng.choice(["A meeting", "A film", "A lesson", "A train journey", "A concert"])
    return task(
        f"{event} starts at {clock(start)} and takes {minutes} minutes. When does it end?",
        "",
        f"It ends at {clock(start + minutes)}.",
    )


def opposite(rng: Random) -> Row:
    """Give the opposite of a word."""
    word, other = rng.choice(
        [
            ("ancient", "modern"),
            ("arrive", "depart"),
            ("brave", "cowardly"),
            ("deep", "shallow"),
            ("empty", "full"),
            ("expand", "shrink"),
            ("forget", "remember"),
            ("guilty", "innocent"),
            ("loose", "tight"),
            ("polite", "rude"),
            ("rare", "common"),
            ("rough", "smooth"),
            ("victory", "defeat"),
            ("wide", "narrow"),
        ]
    )
    if rng.random() < 0.5:
        word, other = other, word
    return task(f'What is the opposite of "{word}"?', "", f'The opposite is "{other}".')


def make_passive(rng: Random) -> Row:
    """Turn an active sentence into a passive one."""
    doer = rng.choice(["the gardener", "a young artist", "the mayor", "two children", "the twins"])
    verb = rng.choice(["painted", "repaired", "moved", "cleaned", "photographed", "sold"])
    thing, was = rng.choice(
        [
            ("the gate", "was"),
            ("the old boat", "was"),
            ("the chairs", "were"),
            ("the red bench", "was"),
            ("the windows", "were"),
        ]
    )
    return task(
        "Rewrite the sentence in the passive voice.",
        f"{doer.capitalize()} {verb} {thing}.",
        f"{thing.capitalize()} {was} {verb} by {doer}.",
    )


def list_as_sentence(rng: Random) -> Row:
    """Turn a list of lines into a sentence."""
    (person,) = draw_people(rng, 1)
    goods = rng.sample(["tea", "flour", "soap", "rice", "honey", "ink", "salt", "paper"], 4)
    return task(
        f'Write the shopping list as a sentence that begins with "{person} needs".',
        "\n".join(f"- {item}" for item in goods),
        f"{person} needs {in_words(goods)}.",
    )


def area_of_rectangle(rng: Random) -> Row:
    """Multiply two lengths."""
    length, width = sorted(rng.sample(range(2, 16), 2), reverse=True)
    unit = rng.choice(["metres", "centimetres"])
    thing = rng.choice(["rectangle", "carpet", "garden bed", "sheet", "floor"])
    return task(
        f"A {thing} is {length} {unit} long and {width} {unit} wide. What is its area?",
        "",
        f"Its area is {length * width} square {unit}.",
    )


def roman_numeral(rng: Random) -> Row:
    """Read or write a Roman numeral."""
    number = rng.choice([n for n in range(3, 100) if n != 49])  # 49 is among the written rows
    tens = ["", "X", "XX", "XXX", "XL", "L", "LX", "LXX", "LXXX", "XC"][number // 10]
    ones = ["", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"][number % 10]
    if rng.random() < 0.5:
        return task(f"Write {number} as a Roman numeral.", "", f"{number} is {tens}{ones}.")
    return task(f"Which number is {tens}{ones}?", "", f"{tens}{ones} is {number}.")


def compare_adjective(rng: Random) -> Row:
    """Give the comparative and the superlative of an adjective."""
    word, more, most = rng.choice(
        [
            ("bad", "worse", "worst"),
            ("big", "bigger", "biggest"),
            ("busy", "busier", "busiest"),
            ("careful", "more careful", "most careful"),
            ("dry", "drier", "driest"),
            ("early", "earlier", "earliest"),
            ("expensive", "more expensive", "most expensive"),
            ("famous", "more famous", "most famous"),
            ("good", "better", "best"),
            ("heavy", "heavier", "heaviest"),
            ("hot", "hotter", "hottest"),
            ("large", "larger", "largest"),
            ("late", "later", "latest"),
            ("patient", "more patient", "most patient"),
            ("thin", "thinner", "thinnest"),
            ("warm", "warmer", "warmest"),
        ]
    )
    which, form = rng.choice([("comparative", more), ("superlative", most)])
    return task(f'What is the {which} of "{word}"?', "", f'The {which} of "{word}" is "{form}".')


_LANGUAGES = ("French", "German", "Spanish", "Italian")
_TRANSLATIONS = {
    "red": ("rouge", "rot", "rojo", "rosso"),
    "green": ("vert", "grün", "verde", "verde"),
    "white": ("blanc", "weiß", "blanco", "bianco"),
    "black": ("noir", "schwarz", "negro", "nero"),
    "yellow": ("jaune", "gelb", "amarillo", "giallo"),
    "three": ("trois", "drei", "tres", "tre"),
    "five": ("cinq", "fünf", "cinco", "cinque"),
    "seven": ("sept", "sieben", "siete", "sette"),
    "ten": ("dix", "zehn", "diez", "dieci"),
    "bread": ("pain", "Brot", "pan", "pane"),
    "milk": ("lait", "Milch", "leche", "latte"),
    "house": ("maison", "Haus", "casa", "casa"),
    "book": ("livre", "Buch", "libro", "libro"),
    "dog": ("chien", "Hund", "perro", "cane"),
    "cat": ("chat", "Katze", "gato", "gatto"),
    "sun": ("soleil", "Sonne", "sol", "sole"),
    "Monday": ("lundi", "Montag", "lunes", "lunedì"),
    "thank you": ("merci", "danke", "gracias", "grazie"),
}


def translate_word(rng: Random) -> Row:
    """Translate a common word."""
    word = rng.choice(sorted(_TRANSLATIONS))
    language, translation = rng.choice(list(zip(_LANGUAGES, _TRANSLATIONS[word], strict=True)))
    return task(
        f'What is the {language} for "{word}"?',
        "",
        f'The {language} for "{word}" is "{translation}".',
    )


_SURNAMES = (
    "Abara",
    "Berg",
    "Castro",
    "Dahl",
    "Ferrari",
    "Hoffmann",
    "Jensen",
    "Kaplan",
    "Moreau",
    "Novak",
    "Okoye",
    "Patel",
    "Rossi",
    "Silva",
    "Tanaka",
    "Walsh",
)


def initials(rng: Random) -> Row:
    """Shorten a name."""
    (person,) = draw_people(rng, 1)
    surname = rng.choice(_SURNAMES)
    instruction, answer = rng.choice(
        [
            ("Write the initials of the name.", f"{person.name[0]}. {surname[0]}."),
            ("Shorten the first name to its initial.", f"{person.name[0]}. {surname}."),
            ("Write the surname first.", f"{surname}, {person}."),
        ]
    )
    return task(instruction, f"{person} {surname}", answer)


def round_number(rng: Random) -> Row:
    """Round to the nearest ten or hundred; never from the middle."""
    unit, word = rng.choice([(10, "ten"), (100, "hundred")])
    number = rng.randint(1, 99) * unit + rng.choice([1, 2, 3, 4, 6, 7, 8, 9]) * unit // 10
    rounded = (number + unit // 2) // unit * unit
    return task(
        f"Round {number} to the nearest {word}.",
        "",
        f"{number} rounded to the nearest {word} is {rounded}.",
    )


def longest_word(rng: Random) -> Row:
    """Find the longest word; only one has its length."""
    while True:
        words = rng.sample(_NOUNS, 4)
        *_, second, longest = sorted(words, key=len)
        if len(second) < len(longest):
            break
    wording = rng.choice(["Which of the words is the longest?", "Find the longest word."])
    return task(wording, ", ".join(words), f"{longest.capitalize()}.")


def to_24_hours(rng: Random) -> Row:
    """Write a time of the afternoon or evening in the 24-hour clock."""
    hour, minute = rng.randint(1, 11), rng.choice([5, 10, 20, 25, 30, 40, 50, 55])
    part = "afternoon" if hour < 6 else "evening"
    return task(
        "Write the time in the 24-hour clock.",
        f"{hour}:{minute:02} in the {part}",
        f"{hour + 12}:{minute:02}.",
    )


def to_csv(rng: Random) -> Row:
    """Write facts as a line of comma-separated values."""
    (person,) = draw_people(rng, 1)
    city, year = rng.choice(_CITIES), rng.randint(1950, 2005)
    sentence = rng.choice(
        [
            f"{person} has lived in {city} since {year}.",
            f"In {year} {person} moved to {city}.",
            f"{city} has been the home of {person} since {year}.",
        ]
    )
    return task(
        "Write the facts as one line of CSV in the order name, city, year.",
        sentence,
        f"{person},{city},{year}.",
    )


_HABITS = (
    ("plays", "play", "played", "the flute"),
    ("paints", "paint", "painted", "old boats"),
    ("repairs", "repair", "repaired", "bicycles"),
    ("collects", "collect", "collected", "stamps"),
    ("visits", "visit", "visited", "the museum"),
    ("waters", "water", "watered", "the roses"),
    ("bakes", "bake", "baked", "bread"),
    ("cleans", "clean", "cleaned", "the windows"),
    ("watches", "watch", "watched", "the birds"),
)


def use_pronoun(rng: Random) -> Row:
    """Replace a name with a pronoun."""
    (person,) = draw_people(rng, 1)
    does, _, _, what = rng.choice(_HABITS)
    when = rng.choice(["every morning", "on Sundays", "after work", "in summer"])
    return task(
        "Replace the name with a pronoun.",
        f"{person} {does} {what} {when}.",
        f"{person.he.capitalize()} {does} {what} {when}.",
    )


def make_negative(rng: Random) -> Row:
    """Deny a sentence."""
    (person,) = draw_people(rng, 1)
    does, do, _, what = rng.choice(_HABITS)
    when = rng.choice(["at home", "alone", "at weekends", "in winter"])
    return task(
        "Make the sentence negative.",
        f"{person} {does} {what} {when}.",
        f"{person} does not {do} {what} {when}.",
    )


def make_past(rng: Random) -> Row:
    """Put a sentence into the past tense."""
    first, second = draw_people(rng, 2)
    _, do, did, what = rng.choice(_HABITS)
    return task(
        "Put the sentence into the past tense.",
        f"{first} and {second} {do} {what} together.",
        f"{first} and {second} {did} {what} together.",
    )


def larger_decimal(rng: Random) -> Row:
    """Compare a number with one decimal place and one with two."""
    tenths = rng.randint(2, 9)
    hundredths = rng.choice([n for n in range(11, 99) if n % 10 and n != tenths * 10])
    short, long = f"0.{tenths}", f"0.{hundredths}"
    pair = [short, long]
    rng.shuffle(pair)
    larger = short if tenths * 10 > hundredths else long
    return task(f"Which is larger, {pair[0]} or {pair[1]}?", "", f"{larger} is larger.")


def reduced_price(rng: Random) -> Row:
    """Take a percentage off a price."""
    thing = rng.choice(["coat", "lamp", "tent", "kettle", "rug", "radio"])
    price, percent = rng.randrange(20, 201, 20), rng.choice([5, 10, 15, 20, 25, 30, 40, 50])
    return task(
        f"A {thing} costs {price} euros. What does it cost after a discount of {percent}%?",
        "",
        f"It costs {price - price * percent // 100} euros.",
    )


def count_letters(rng: Random) -> Row:
    """Count the letters of a word."""
    word = rng.choice(_NOUNS)
    wording = rng.choice(['How many letters does "{}" have?', 'Count the letters of "{}".'])
    return task(wording.format(word), "", f'"{word}" has {len(word)} letters.')


def who_is_older(rng: Random) -> Row:
    """Compare two years of birth."""
    first, second = draw_people(rng, 2)
    one, other = rng.sample(range(1950, 2006), 2)
    years = abs(one - other)
    older = first if one < other else second
    return task(
        "Who is older, and by how much?",
        f"{first} was born in {one} and {second} in {other}.",
        f"{older} is {years} {'year' if years == 1 else 'years'} older.",
    )


FAMILIES: tuple[Family, ...] = (
    convert_units,
    convert_temperature,
    sort_words,
    sort_numbers,
    extract_email,
    extract_facts,
    count_words,
    good_review,
    bad_review,
    route_message,
    write_sql,
    fill_email,
    percentage,
    change_date_format,
    next_number,
    classify_thing,
    odd_one_out,
    write_json,
    read_table,
    past_tense,
    python_one_liner,
    day_of_the_week,
    shopping_total,
    remove_repeats,
    capitals,
    announce_event,
    area_of_rectangle,
    roman_numeral,
    compare_adjective,
    translate_word,
    initials,
    round_number,
    longest_word,
    to_24_hours,
    to_csv,
    use_pronoun,
    make_negative,
    make_past,
    larger_decimal,
    reduced_price,
    count_letters,
    who_is_older,
)
HELD_OUT_FAMILIES: tuple[Family, ...] = (
    average,
    end_of_a_meeting,
    opposite,
    make_passive,
    list_as_sentence,
)
