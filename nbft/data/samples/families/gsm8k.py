"""Rows of the GSM8K sample: a school sum in words and its worked steps.

Each function is a family: it draws the people, the things and the numbers, so that the answer is
a whole number above zero. An answer holds one sentence a step, with the sum between `<<` and
`>>` as GSM8K writes it, and ends with `#### ` and the result.

Source: the form of the answers is that of GSM8K, arXiv:2110.14168, section 2.
"""

from __future__ import annotations

import re
from random import Random

from nbft.data.samples.families import WEEKDAYS, Family, Row
from nbft.data.samples.families.people import draw_people


def work(left: int, operator: str, right: int) -> str:
    """Write out a sum with its result.

    Raises:
        ValueError: The result is not a whole number above zero.

    >>> work(6, "*", 4)
    '6 * 4 = <<6*4=24>>24'
    """
    match operator:
        case "+":
            result, rest = left + right, 0
        case "-":
            result, rest = left - right, 0
        case "*":
            result, rest = left * right, 0
        case "/":
            result, rest = divmod(left, right)
        case _:
            raise ValueError(f"operator={operator!r}: must be one of + - * /.")
    if rest or result < 1:
        raise ValueError(f"{left} {operator} {right} is not a whole number above zero.")
    return f"{left} {operator} {right} = <<{left}{operator}{right}={result}>>{result}"


def problem(question: str, steps: list[str], result: int) -> Row:
    """Put a row together."""
    return {"question": question, "answer": "\n".join([*steps, f"#### {result}"])}


def calculations(row: Row) -> str:
    r"""Return the sums of a row, without its words.

    >>> calculations({"question": "?", "answer": "There are 2 + 3 = <<2+3=5>>5.\n#### 5"})
    '<<2+3=5>>'
    """
    return "".join(re.findall("<<.*?>>", row["answer"]))


def change_from_a_note(rng: Random) -> Row:
    """Buy several things and get change."""
    (buyer,) = draw_people(rng, 1)
    thing = rng.choice(["notebooks", "apples", "postcards", "bread rolls", "pens", "candles"])
    count, price = rng.randint(3, 9), rng.randint(2, 6)
    cost = count * price
    note = next(note for note in (20, 50, 100) if note > cost)
    question = rng.choice(
        [
            (
                f"{buyer} buys {count} {thing} at ${price} each and pays with a ${note} note. "
                f"How many dollars does {buyer.he} get back?"
            ),
            (
                f"{thing.capitalize()} cost ${price} each. {buyer} takes {count} of them and gives the "
                f"seller ${note}. How much change should {buyer.he} get?"
            ),
        ]
    )
    steps = [
        f"The {thing} cost {work(count, '*', price)} dollars.",
        f"{buyer} gets {work(note, '-', cost)} dollars back.",
    ]
    return problem(question, steps, note - cost)


def two_kinds_of_goods(rng: Random) -> Row:
    """Add the cost of two kinds of goods."""
    (buyer,) = draw_people(rng, 1)
    first, second = rng.sample(["cups", "plates", "bowls", "spoons", "glasses", "napkins"], 2)
    a, b = rng.sample(range(3, 10), 2)
    price_a, price_b = rng.sample(range(2, 9), 2)
    question = rng.choice(
        [
            (
                f"For a party {buyer} buys {a} {first} at ${price_a} each and {b} {second} at "
                f"${price_b} each. How much does {buyer.he} spend?"
            ),
            (
                f"{buyer} needs {a} {first} and {b} {second}. One of the {first} costs ${price_a} and "
                f"one of the {second} costs ${price_b}. What is the total cost in dollars?"
            ),
        ]
    )
    steps = [
        f"The {first} cost {work(a, '*', price_a)} dollars.",
        f"The {second} cost {work(b, '*', price_b)} dollars.",
        f"Together they cost {work(a * price_a, '+', b * price_b)} dollars.",
    ]
    return problem(question, steps, a * price_a + b * price_b)


def sharing_what_is_left(rng: Random) -> Row:
    """Eat some of several boxes and share the rest."""
    (giver,) = draw_people(rng, 1)
    sweet = rng.choice(["cookies", "chocolates", "cherries", "dates", "plums", "mints"])
    friends, share = rng.randint(3, 6), rng.randint(4, 9)
    boxes = rng.randint(2, 5)
    left = friends * share
    per_box = left // boxes + rng.randint(1, 3)
    total = boxes * per_box
    eaten = total - left
    question = rng.choice(
        [
            (
                f"{giver} has {boxes} boxes with {per_box} {sweet} in each. {giver.he.capitalize()} "
                f"eats {eaten} and shares the rest equally among {friends} friends. "
                f"How many {sweet} does each friend get?"
            ),
            (
                f"There are {per_box} {sweet} in each of {giver}'s {boxes} boxes. After eating {eaten} "
                f"of them, {giver.he} divides the others equally among {friends} friends. "
                f"How many does each friend receive?"
            ),
        ]
    )
    steps = [
        f"{giver} has {work(boxes, '*', per_box)} {sweet}.",
        f"After eating there are {work(total, '-', eaten)} {sweet} left.",
        f"Each friend gets {work(left, '/', friends)} {sweet}.",
    ]
    return problem(question, steps, share)


def three_ages(rng: Random) -> Row:
    """Find an age from two others."""
    young, older, oldest = draw_people(rng, 3)
    age, gap = rng.randint(4, 12), rng.randint(2, 9)
    times, in_words = rng.choice([(2, "twice"), (3, "three times")])
    years = rng.randint(2, 10)
    middle = age + gap
    question = rng.choice(
        [
            (
                f"{young} is {age} years old. {older} is {gap} years older than {young}, and {oldest} "
                f"is {in_words} as old as {older}. How old will {oldest} be in {years} years?"
            ),
            (
                f"{oldest} is {in_words} as old as {older}, who is {gap} years older than {young}. "
                f"{young} is {age}. What will be the age of {oldest} in {years} years?"
            ),
        ]
    )
    steps = [
        f"{older} is {work(age, '+', gap)} years old.",
        f"{oldest} is {work(middle, '*', times)} years old.",
        f"In {years} years {oldest} will be {work(middle * times, '+', years)} years old.",
    ]
    return problem(question, steps, middle * times + years)


def saving_up(rng: Random) -> Row:
    """Count the weeks until something can be bought."""
    (saver,) = draw_people(rng, 1)
    goal = rng.choice(["a guitar", "a bicycle", "a tent", "a camera", "a watch", "a desk"])
    earned, spent = rng.randint(12, 25), rng.randint(2, 8)
    weeks, start = rng.randint(4, 12), rng.randint(5, 40)
    kept = earned - spent
    price = start + kept * weeks
    question = rng.choice(
        [
            (
                f"{saver} wants to buy {goal} for ${price} and already has ${start}. Every week "
                f"{saver.he} earns ${earned} and spends ${spent} of it. After how many weeks can "
                f"{saver.he} pay for it?"
            ),
            (
                f"{goal.capitalize()} costs ${price}. {saver} has saved ${start} so far. "
                f"{saver.he.capitalize()} gets ${earned} a week but uses ${spent} of that for the bus. "
                f"How many weeks must {saver.he} go on saving?"
            ),
        ]
    )
    steps = [
        f"{saver} still needs {work(price, '-', start)} dollars.",
        f"Each week {saver.he} keeps {work(earned, '-', spent)} dollars.",
        f"It takes {work(price - start, '/', kept)} weeks.",
    ]
    return problem(question, steps, weeks)


def finishing_a_book(rng: Random) -> Row:
    """Find how fast the rest of a book must be read."""
    (reader,) = draw_people(rng, 1)
    per_day, days = rng.randint(8, 20), rng.randint(3, 7)
    left_days, pace = rng.randint(2, 6), rng.randint(15, 35)
    read = per_day * days
    pages = read + left_days * pace
    question = rng.choice(
        [
            (
                f"A book has {pages} pages. {reader} reads {per_day} pages a day for {days} days. "
                f"{reader.he.capitalize()} wants to read the rest in {left_days} days, the same number "
                f"of pages each day. How many pages a day is that?"
            ),
            (
                f"{reader} must finish a book of {pages} pages. For {days} days {reader.he} has read "
                f"{per_day} pages a day, and {left_days} days are left. How many pages must "
                f"{reader.he} read on each of them, if {reader.he} reads the same number every day?"
            ),
        ]
    )
    steps = [
        f"{reader} has read {work(per_day, '*', days)} pages.",
        f"There are {work(pages, '-', read)} pages left.",
        f"{reader} must read {work(pages - read, '/', left_days)} pages a day.",
    ]
    return problem(question, steps, pace)


def journey_in_two_parts(rng: Random) -> Row:
    """Add up two distances."""
    (driver,) = draw_people(rng, 1)
    slow, fast = rng.choice([40, 45, 50, 60]), rng.choice([70, 80, 90, 100])
    hours, more_hours = rng.randint(2, 4), rng.randint(2, 4)
    first, second = slow * hours, fast * more_hours
    question = rng.choice(
        [
            (
                f"{driver} drives for {hours} hours at {slow} km an hour on a country road and then "
                f"for {more_hours} hours at {fast} km an hour on a motorway. How many kilometres does "
                f"{driver.he} drive?"
            ),
            (
                f"A bus goes {slow} km an hour for the first {hours} hours and {fast} km an hour for "
                f"the next {more_hours} hours. How many kilometres has {driver}, who sits in it the "
                f"whole time, travelled?"
            ),
        ]
    )
    steps = [
        f"The first part is {work(slow, '*', hours)} km long.",
        f"The second part is {work(fast, '*', more_hours)} km long.",
        f"The whole journey is {work(first, '+', second)} km long.",
    ]
    return problem(question, steps, first + second)


def rows_in_a_garden(rng: Random) -> Row:
    """Count plants, lose some and pick from the rest."""
    (gardener,) = draw_people(rng, 1)
    plant, fruit = rng.choice(
        [
            ("tomato plants", "tomatoes"),
            ("pepper plants", "peppers"),
            ("pumpkin plants", "pumpkins"),
        ]
    )
    rows, per_row, each = rng.randint(3, 8), rng.randint(4, 9), rng.randint(2, 6)
    planted = rows * per_row
    lost = rng.randint(2, 9)
    question = rng.choice(
        [
            (
                f"{gardener} sets {rows} rows of {per_row} {plant}. Snails eat {lost} of the plants. "
                f"Each of the others bears {each} {fruit}. How many {fruit} are there?"
            ),
            (
                f"In {gardener}'s garden there are {rows} rows with {per_row} {plant} in each row. "
                f"A storm destroys {lost} plants, and {gardener.he} picks {each} {fruit} from every "
                f"remaining plant. How many {fruit} does {gardener.he} pick?"
            ),
        ]
    )
    steps = [
        f"At first there are {work(rows, '*', per_row)} plants.",
        f"Then {work(planted, '-', lost)} plants are left.",
        f"They bear {work(planted - lost, '*', each)} {fruit}.",
    ]
    return problem(question, steps, (planted - lost) * each)


def price_in_a_sale(rng: Random) -> Row:
    """Take a percentage off and buy several."""
    (buyer,) = draw_people(rng, 1)
    thing, many = rng.choice(
        [("shirt", "shirts"), ("lamp", "lamps"), ("chair", "chairs"), ("bag", "bags")]
    )
    price, percent = rng.choice([20, 40, 60, 80, 100]), rng.choice([5, 10, 15, 20, 25, 30, 40])
    count = rng.randint(2, 6)
    saved = price * percent // 100
    question = rng.choice(
        [
            (
                f"A {thing} normally costs ${price}. In the sale it is {percent}% cheaper. "
                f"How much does {buyer} pay for {count} {many} in the sale?"
            ),
            (
                f"{buyer} buys {count} {many}. The usual price is ${price} each, but today the shop "
                f"takes {percent}% off. How many dollars does {buyer.he} pay?"
            ),
        ]
    )
    steps = [
        (
            f"{percent}% off is {percent} cents less for each dollar, so "
            f"{work(price, '*', percent)} cents."
        ),
        f"That is {work(price * percent, '/', 100)} dollars.",
        f"In the sale a {thing} costs {work(price, '-', saved)} dollars.",
        f"{count} {many} cost {work(count, '*', price - saved)} dollars.",
    ]
    return problem(question, steps, count * (price - saved))


def people_on_a_bus(rng: Random) -> Row:
    """Let people get on and off."""
    vehicle = rng.choice(["bus", "tram", "ferry", "train"])
    start, off, on = rng.randint(18, 40), rng.randint(3, 12), rng.randint(2, 15)
    off_later = rng.randint(2, 6)
    after_off = start - off
    after_on = after_off + on
    question = rng.choice(
        [
            (
                f"There are {start} people on a {vehicle}. At the first stop {off} get off and {on} "
                f"get on. At the second stop {off_later} get off. How many people are on the "
                f"{vehicle} now?"
            ),
            (
                f"A {vehicle} leaves with {start} passengers. {off} of them leave at the first stop, "
                f"where {on} new ones come in. At the next stop {off_later} people leave. "
                f"How many passengers are left?"
            ),
        ]
    )
    steps = [
        f"At the first stop {work(start, '-', off)} people stay.",
        f"With the new ones there are {work(after_off, '+', on)} people.",
        f"After the second stop there are {work(after_on, '-', off_later)} people.",
    ]
    return problem(question, steps, after_on - off_later)


def eggs_for_cakes(rng: Random) -> Row:
    """Find how many boxes of eggs are missing."""
    (baker,) = draw_people(rng, 1)
    box = rng.choice([6, 10, 12])
    boxes, per_cake = rng.randint(2, 4), rng.randint(3, 6)
    cakes = rng.randint(-(-(box * boxes + 1) // per_cake), 24)
    needed = cakes * per_cake
    owned = needed - box * boxes
    question = rng.choice(
        [
            (
                f"{baker} bakes {cakes} cakes and needs {per_cake} eggs for each. "
                f"{baker.he.capitalize()} has {owned} eggs. Eggs are sold in boxes of {box}. "
                f"How many boxes must {baker.he} buy?"
            ),
            (
                f"A cake needs {per_cake} eggs. {baker} wants to make {cakes} cakes and finds {owned} "
                f"eggs in the kitchen. How many boxes of {box} eggs does {baker.he} have to buy?"
            ),
        ]
    )
    steps = [
        f"{baker} needs {work(cakes, '*', per_cake)} eggs.",
        f"{work(needed, '-', owned)} eggs are missing.",
        f"That is {work(needed - owned, '/', box)} boxes.",
    ]
    return problem(question, steps, boxes)


def fence_around_a_field(rng: Random) -> Row:
    """Pay for a fence."""
    (farmer,) = draw_people(rng, 1)
    place = rng.choice(["field", "garden", "playground", "meadow", "yard"])
    width, length = rng.randint(6, 20), rng.randint(21, 40)
    price = rng.randint(2, 9)
    half = width + length
    question = rng.choice(
        [
            (
                f"{farmer} puts a fence around a {place} that is {length} m long and {width} m wide. "
                f"A metre of fence costs ${price}. What does the whole fence cost in dollars?"
            ),
            (
                f"A {place} is a rectangle of {length} m by {width} m. {farmer} wants to fence all "
                f"four sides, at ${price} a metre. How many dollars does {farmer.he} need?"
            ),
        ]
    )
    steps = [
        f"One long and one short side measure {work(length, '+', width)} m.",
        f"All four sides measure {work(half, '*', 2)} m.",
        f"The fence costs {work(half * 2, '*', price)} dollars.",
    ]
    return problem(question, steps, half * 2 * price)


def tiles_on_a_floor(rng: Random) -> Row:
    """Cover a floor with tiles that come in boxes."""
    room = rng.choice(["bathroom", "kitchen", "hall", "terrace", "classroom"])
    per_metre, box = rng.choice([(4, 8), (4, 12), (9, 18), (6, 12), (5, 10), (10, 20)])
    width, length = rng.choice([(2, 3), (3, 4), (4, 6), (2, 6), (6, 9), (3, 6), (4, 9), (6, 8)])
    area = width * length
    tiles = area * per_metre
    question = rng.choice(
        [
            (
                f"The floor of a {room} is {length} m long and {width} m wide. Each square metre needs "
                f"{per_metre} tiles, and a box holds {box} tiles. How many boxes are needed?"
            ),
            (
                f"A {room} measures {length} m by {width} m. It takes {per_metre} tiles to cover one "
                f"square metre. Tiles come in boxes of {box}. How many boxes cover the floor?"
            ),
        ]
    )
    steps = [
        f"The floor is {work(length, '*', width)} square metres.",
        f"It needs {work(area, '*', per_metre)} tiles.",
        f"That is {work(tiles, '/', box)} boxes.",
    ]
    return problem(question, steps, tiles // box)


def pay_with_overtime(rng: Random) -> Row:
    """Add normal pay and a higher pay for extra hours."""
    (worker,) = draw_people(rng, 1)
    job = rng.choice(["bakery", "garage", "hotel", "warehouse", "cinema"])
    pay, more = rng.randint(9, 15), rng.randint(2, 6)
    limit, extra = rng.choice([20, 30, 35, 40]), rng.randint(2, 8)
    total_hours = limit + extra
    normal, higher = limit * pay, extra * (pay + more)
    question = rng.choice(
        [
            (
                f"{worker} works in a {job} for ${pay} an hour. For every hour above {limit} a week "
                f"{worker.he} gets ${more} more. How much does {worker.he} earn in a week of "
                f"{total_hours} hours?"
            ),
            (
                f"A {job} pays {worker} ${pay} an hour for the first {limit} hours of a week and "
                f"${more} an hour on top of that for each further hour. {worker} worked {total_hours} "
                f"hours this week. How many dollars did {worker.he} earn?"
            ),
        ]
    )
    steps = [
        f"For the first {limit} hours {worker} gets {work(limit, '*', pay)} dollars.",
        f"{worker} works {work(total_hours, '-', limit)} further hours.",
        f"Each of them pays {work(pay, '+', more)} dollars.",
        f"They pay {work(extra, '*', pay + more)} dollars together.",
        f"{worker} earns {work(normal, '+', higher)} dollars.",
    ]
    return problem(question, steps, normal + higher)


def three_collections(rng: Random) -> Row:
    """Compare three collections and add them."""
    a, b, c = draw_people(rng, 3)
    things = rng.choice(["stamps", "coins", "shells", "marbles", "stickers", "postcards"])
    first = rng.randint(8, 30)
    times, in_words = rng.choice([(2, "twice"), (3, "three times"), (4, "four times")])
    second = first * times
    fewer = rng.randint(3, second - 5)
    third = second - fewer
    question = rng.choice(
        [
            (
                f"{a} has {first} {things}. {b} has {in_words} as many, and {c} has {fewer} fewer "
                f"than {b}. How many {things} do they have together?"
            ),
            (
                f"{c} has {fewer} {things} fewer than {b}, and {b} has {in_words} as many as {a}. "
                f"{a} has {first}. How many {things} are there in all three collections?"
            ),
        ]
    )
    steps = [
        f"{b} has {work(first, '*', times)} {things}.",
        f"{c} has {work(second, '-', fewer)} {things}.",
        f"{a} and {b} have {work(first, '+', second)} {things}.",
        f"All three have {work(first + second, '+', third)} {things}.",
    ]
    return problem(question, steps, first + second + third)


def ways_to_school(rng: Random) -> Row:
    """Take fractions of a class."""
    (teacher,) = draw_people(rng, 1)
    words = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}
    first, second = rng.sample(sorted(words), 2)
    pupils = first * second * rng.randint(2, 4)
    pupils *= 1 if (pupils - pupils // first) % second == 0 else second
    walkers = pupils // first
    others = pupils - walkers
    riders = others // second
    question = rng.choice(
        [
            (
                f"There are {pupils} pupils in {teacher}'s year. {words[first].capitalize()} of them "
                f"walk to school. Of the others, {words[second]} come by bicycle and the rest by bus. "
                f"How many pupils come by bus?"
            ),
            (
                f"Of the {pupils} children at {teacher}'s school, {words[first]} walk. "
                f"{words[second].capitalize()} of those who do not walk ride a bicycle, and everyone "
                f"else takes the bus. How many children take the bus?"
            ),
        ]
    )
    steps = [
        f"{work(pupils, '/', first)} walk.",
        f"{work(pupils, '-', walkers)} do not walk.",
        f"{work(others, '/', second)} ride a bicycle.",
        f"{work(others, '-', riders)} take the bus.",
    ]
    return problem(question, steps, others - riders)


def score_for_an_average(rng: Random) -> Row:
    """Find the last score that gives an average."""
    (pupil,) = draw_people(rng, 1)
    subject = rng.choice(["maths", "history", "spelling", "chess", "geography"])
    average = rng.randint(60, 80)
    scores = [average + rng.randint(-6, 6) for _ in range(3)]
    needed = average * 4
    have = sum(scores)
    one, two, three = scores
    question = rng.choice(
        [
            (
                f"{pupil} scored {one}, {two} and {three} points in three {subject} tests. How many "
                f"points does {pupil.he} need in the fourth for an average of {average}?"
            ),
            (
                f"In {subject} {pupil} wants an average of {average} points over four tests. "
                f"{pupil.his.capitalize()} first three results are {one}, {two} and {three}. "
                f"What must the fourth one be?"
            ),
        ]
    )
    steps = [
        f"Four tests with an average of {average} give {work(4, '*', average)} points.",
        f"The first two tests gave {work(one, '+', two)} points.",
        f"With the third that is {work(one + two, '+', three)} points.",
        f"The fourth test must bring {work(needed, '-', have)} points.",
    ]
    return problem(question, steps, needed - have)


def filling_a_tank(rng: Random) -> Row:
    """Fill a tank that loses water."""
    tank = rng.choice(["tank", "pool", "pond", "barrel"])
    into, out = rng.randint(9, 20), rng.randint(2, 7)
    minutes = rng.randint(6, 25)
    inside = rng.randint(10, 60)
    net = into - out
    volume = inside + net * minutes
    question = rng.choice(
        [
            (
                f"A {tank} holds {volume} litres and has {inside} litres in it. A hose brings {into} "
                f"litres a minute, but {out} litres a minute leak out. After how many minutes is the "
                f"{tank} full?"
            ),
            (
                f"Every minute {into} litres of water flow into a {tank} and {out} litres flow out. "
                f"There are {inside} litres in it now, and it holds {volume}. How many minutes does it "
                f"take to fill up?"
            ),
        ]
    )
    steps = [
        f"There is room for {work(volume, '-', inside)} litres.",
        f"Each minute the water grows by {work(into, '-', out)} litres.",
        f"It takes {work(volume - inside, '/', net)} minutes.",
    ]
    return problem(question, steps, minutes)


def tickets_sold(rng: Random) -> Row:
    """Find the number of tickets of the second kind."""
    (seller,) = draw_people(rng, 1)
    place = rng.choice(["museum", "zoo", "fair", "circus", "swimming pool"])
    adult, child = rng.randint(8, 15), rng.randint(3, 7)
    adults, children = rng.randint(5, 20), rng.randint(6, 25)
    total = adult * adults + child * children
    question = rng.choice(
        [
            (
                f"At the {place} {seller} sells adult tickets at ${adult} and child tickets at "
                f"${child}. {seller.he.capitalize()} takes ${total} in all and has sold {adults} adult "
                f"tickets. How many child tickets has {seller.he} sold?"
            ),
            (
                f"Tickets for the {place} cost ${adult} for adults and ${child} for children. A group "
                f"with {adults} adults pays ${total}. How many children are in the group?"
            ),
        ]
    )
    steps = [
        f"The adults pay {work(adults, '*', adult)} dollars.",
        f"The children pay {work(total, '-', adults * adult)} dollars.",
        f"That is {work(total - adults * adult, '/', child)} child tickets.",
    ]
    return problem(question, steps, children)


def recipe_for_more(rng: Random) -> Row:
    """Scale a recipe."""
    (cook,) = draw_people(rng, 1)
    dish, food = rng.choice(
        [("soup", "lentils"), ("pancakes", "flour"), ("salad", "beans"), ("pudding", "rice")]
    )
    people, each = rng.choice([2, 3, 4, 5]), rng.choice([30, 40, 50, 60, 80])
    guests = rng.randint(6, 14)
    owned = rng.choice([50, 100, 120, 150])
    grams, needed = people * each, guests * each
    question = rng.choice(
        [
            (
                f"A recipe for {dish} takes {grams} g of {food} for {people} people. {cook} cooks for "
                f"{guests} people and has {owned} g of {food}. How many more grams does "
                f"{cook.he} need?"
            ),
            (
                f"To make {dish} for {people} people you need {grams} g of {food}. {cook} has {owned} "
                f"g at home and expects to feed {guests} people. How many grams of {food} must "
                f"{cook.he} buy?"
            ),
        ]
    )
    steps = [
        f"One person needs {work(grams, '/', people)} g.",
        f"{guests} people need {work(guests, '*', each)} g.",
        f"{cook} needs {work(needed, '-', owned)} g more.",
    ]
    return problem(question, steps, needed - owned)


def steps_in_a_week(rng: Random) -> Row:
    """Find what is missing to a weekly goal."""
    (walker,) = draw_people(rng, 1)
    days = rng.randint(3, 5)
    daily, last = rng.choice([2, 3, 4, 5, 6]), rng.randint(4, 9)
    done = days * daily + last
    goal = done + rng.randint(4, 16)
    verb, unit = rng.choice([("walks", "km"), ("runs", "km"), ("swims", "lengths")])
    question = rng.choice(
        [
            (
                f"{walker} wants to reach {goal} {unit} this week. {walker.he.capitalize()} {verb} "
                f"{daily} {unit} a day for {days} days and {last} {unit} on the day after. How many "
                f"{unit} are still missing?"
            ),
            (
                f"{walker}'s goal for the week is {goal} {unit}. So far {walker.he} has done {daily} "
                f"{unit} on each of {days} days and then {last} {unit} in one day. How many more "
                f"{unit} does {walker.he} need?"
            ),
        ]
    )
    steps = [
        f"On the first {days} days it is {work(days, '*', daily)} {unit}.",
        f"With the next day it is {work(days * daily, '+', last)} {unit}.",
        f"There are {work(goal, '-', done)} {unit} to go.",
    ]
    return problem(question, steps, goal - done)


def points_in_a_match(rng: Random) -> Row:
    """Add two kinds of points and compare two players."""
    a, b = draw_people(rng, 2)
    threes, twos, rival = rng.randint(2, 7), rng.randint(3, 9), rng.randint(4, 11)
    score = threes * 3 + twos * 2
    question = rng.choice(
        [
            (
                f"In a basketball match {a} makes {threes} three-point shots and {twos} two-point "
                f"shots. {b} scores {rival} points. How many more points does {a} score than {b}?"
            ),
            (
                f"{b} scored {rival} points. {a} scored with {threes} shots of three points and {twos} "
                f"shots of two points. By how many points did {a} beat {b}?"
            ),
        ]
    )
    steps = [
        f"The three-point shots give {work(threes, '*', 3)} points.",
        f"The two-point shots give {work(twos, '*', 2)} points.",
        f"{a} scores {work(threes * 3, '+', twos * 2)} points.",
        f"{a} has {work(score, '-', rival)} points more.",
    ]
    return problem(question, steps, score - rival)


def library_fines(rng: Random) -> Row:
    """Pay for books that come back late."""
    (reader,) = draw_people(rng, 1)
    books, days, cents = rng.randint(2, 5), rng.randint(3, 9), rng.choice([5, 10, 15, 20])
    owed = books * days * cents
    paid = (owed // 100 + 1) * 100
    dollars = paid // 100
    coins = "a $1 coin" if dollars == 1 else f"{dollars} one-dollar coins"
    question = rng.choice(
        [
            (
                f"A library asks {cents} cents a day for each late book. {reader} brings {books} books "
                f"back {days} days late and pays with {coins}. How many cents does {reader.he} "
                f"get back?"
            ),
            (
                f"{reader} returns {books} library books {days} days late. The fine is {cents} cents "
                f"per book and day. {reader.he.capitalize()} pays with {coins}. "
                f"What is the change in cents?"
            ),
        ]
    )
    steps = [
        f"For one day the fine is {work(books, '*', cents)} cents.",
        f"For {days} days it is {work(books * cents, '*', days)} cents.",
        f"{reader} pays {work(dollars, '*', 100)} cents.",
        f"{reader.he.capitalize()} gets {work(paid, '-', owed)} cents back.",
    ]
    return problem(question, steps, paid - owed)


def parking_fee(rng: Random) -> Row:
    """Pay more for the first hour than for the others."""
    (driver,) = draw_people(rng, 1)
    first, later = rng.randint(4, 8), rng.randint(1, 3)
    start, hours = rng.randint(8, 12), rng.randint(3, 7)
    question = rng.choice(
        [
            (
                f"Parking costs ${first} for the first hour and ${later} for each hour after that. "
                f"{driver} parks from {start}:00 to {start + hours}:00. How many dollars does "
                f"{driver.he} pay?"
            ),
            (
                f"{driver} leaves {driver.his} car in a garage at {start}:00 and fetches it at "
                f"{start + hours}:00. The first hour costs ${first} and every further hour ${later}. "
                f"What does {driver.he} pay in dollars?"
            ),
        ]
    )
    steps = [
        f"{driver} parks for {work(start + hours, '-', start)} hours.",
        f"After the first hour there are {work(hours, '-', 1)} more.",
        f"They cost {work(hours - 1, '*', later)} dollars.",
        f"{driver} pays {work(first, '+', (hours - 1) * later)} dollars.",
    ]
    return problem(question, steps, first + (hours - 1) * later)


def legs_on_a_farm(rng: Random) -> Row:
    """Count legs."""
    (farmer,) = draw_people(rng, 1)
    birds, beasts = rng.choice(
        [("hens", "cows"), ("ducks", "sheep"), ("geese", "goats"), ("turkeys", "horses")]
    )
    total, four = rng.randint(12, 30), rng.randint(3, 10)
    two = total - four
    question = rng.choice(
        [
            (
                f"{farmer} keeps {total} animals: {four} {beasts}, and the rest are {birds}. "
                f"How many legs do the animals have in all?"
            ),
            (
                f"On {farmer}'s farm there are only {birds} and {beasts}, {total} animals together. "
                f"{four} of them are {beasts}. How many legs do all the animals have?"
            ),
        ]
    )
    steps = [
        f"There are {work(total, '-', four)} {birds}.",
        f"The {birds} have {work(two, '*', 2)} legs.",
        f"The {beasts} have {work(four, '*', 4)} legs.",
        f"All the animals have {work(two * 2, '+', four * 4)} legs.",
    ]
    return problem(question, steps, two * 2 + four * 4)


def two_machines(rng: Random) -> Row:
    """Let two machines work together."""
    machine, product = rng.choice(
        [("printer", "pages"), ("packing machine", "boxes"), ("press", "litres of juice")]
    )
    slow, faster, minutes = rng.randint(5, 12), rng.randint(2, 9), rng.randint(4, 15)
    fast = slow + faster
    both = slow + fast
    total = both * minutes
    question = rng.choice(
        [
            (
                f"One {machine} makes {slow} {product} a minute, and a newer one makes {faster} more "
                f"than that. Both work together. How many minutes do they need for {total} {product}?"
            ),
            (
                f"An old {machine} makes {slow} {product} a minute. The new {machine} makes {faster} "
                f"more a minute than the old one. How many minutes does it take both of them to make "
                f"{total} {product}?"
            ),
        ]
    )
    steps = [
        f"The newer {machine} makes {work(slow, '+', faster)} {product} a minute.",
        f"Both make {work(slow, '+', fast)} {product} a minute.",
        f"They need {work(total, '/', both)} minutes.",
    ]
    return problem(question, steps, minutes)


def doubling_each_day(rng: Random) -> Row:
    """Double a number three times and add up."""
    (person,) = draw_people(rng, 1)
    first = rng.randint(2, 60)
    verb, things = rng.choice(
        [("picks", "flowers"), ("solves", "puzzles"), ("folds", "paper birds"), ("saves", "coins")]
    )
    start = rng.randint(0, 4)
    second, third = first * 2, first * 4
    question = rng.choice(
        [
            (
                f"On {WEEKDAYS[start]} {person} {verb} {first} {things}, on {WEEKDAYS[start + 1]} "
                f"twice as many, and on {WEEKDAYS[start + 2]} twice as many as the day before. "
                f"How many {things} is that in the three days?"
            ),
            (
                f"{person} {verb} {first} {things} on the first day. On the second and the third day "
                f"{person.he} doubles the number of the day before. How many {things} are there "
                f"after three days?"
            ),
        ]
    )
    steps = [
        f"On the second day there are {work(first, '*', 2)} {things}.",
        f"On the third day there are {work(second, '*', 2)} {things}.",
        f"The first two days give {work(first, '+', second)} {things}.",
        f"The three days give {work(first + second, '+', third)} {things}.",
    ]
    return problem(question, steps, first + second + third)


def practice_in_hours(rng: Random) -> Row:
    """Turn minutes a day into hours."""
    (person,) = draw_people(rng, 1)
    hobby = rng.choice(["the piano", "the flute", "chess", "the drums", "the violin"])
    minutes, days = rng.choice([10, 15, 20, 25, 30, 40, 45, 50]), rng.randint(2, 6)
    weeks = rng.choice([weeks for weeks in range(2, 15) if minutes * days * weeks % 60 == 0])
    weekly = minutes * days
    total = weekly * weeks
    question = rng.choice(
        [
            (
                f"{person} practises {hobby} for {minutes} minutes on {days} days a week. "
                f"How many hours does {person.he} practise in {weeks} weeks?"
            ),
            (
                f"For {weeks} weeks {person} plays {hobby} on {days} days of each week, {minutes} "
                f"minutes a day. How many hours is that in all?"
            ),
        ]
    )
    steps = [
        f"In a week it is {work(minutes, '*', days)} minutes.",
        f"In {weeks} weeks it is {work(weekly, '*', weeks)} minutes.",
        f"That is {work(total, '/', 60)} hours.",
    ]
    return problem(question, steps, total // 60)


def profit_of_a_stand(rng: Random) -> Row:
    """Subtract the cost from the sales."""
    a, b = draw_people(rng, 2)
    goods = rng.choice(["lemonades", "waffles", "bracelets", "sandwiches", "cards"])
    sold, price = rng.randint(15, 40), rng.randint(2, 5)
    sales = sold * price
    profit = 2 * rng.randint(5, sales // 2 - 3)
    cost = sales - profit
    question = rng.choice(
        [
            (
                f"{a} and {b} sell {sold} {goods} at ${price} each. They spent ${cost} to make them. "
                f"They share the profit equally. How many dollars does each of them get?"
            ),
            (
                f"Making {sold} {goods} costs {a} and {b} ${cost}. They sell all of them for ${price} "
                f"each and split what they gain in half. How much does each of them gain?"
            ),
        ]
    )
    steps = [
        f"They take in {work(sold, '*', price)} dollars.",
        f"The profit is {work(sales, '-', cost)} dollars.",
        f"Each of them gets {work(profit, '/', 2)} dollars.",
    ]
    return problem(question, steps, profit // 2)


def sharing_by_parts(rng: Random) -> Row:
    """Share in a ratio."""
    a, b = draw_people(rng, 2)
    things = rng.choice(["dollars", "marbles", "stickers", "apples", "nuts"])
    less, more = rng.choice([(1, 2), (1, 3), (2, 3), (3, 4), (2, 5), (3, 5), (4, 5)])
    part = rng.randint(4, 14)
    total = part * (less + more)
    question = rng.choice(
        [
            (
                f"{a} and {b} share {total} {things}. For every {less} that {a} gets, {b} gets {more}. "
                f"How many more {things} does {b} get than {a}?"
            ),
            (
                f"{total} {things} are divided between {a} and {b} in the ratio {less} to {more}. "
                f"How many {things} does {b} have more than {a}?"
            ),
        ]
    )
    steps = [
        f"There are {work(less, '+', more)} equal parts.",
        f"One part is {work(total, '/', less + more)} {things}.",
        f"{b} gets {work(more, '-', less)} {'part' if more - less == 1 else 'parts'} more.",
        f"That is {work(more - less, '*', part)} {things} more.",
    ]
    return problem(question, steps, (more - less) * part)


def rent_of_a_room(rng: Random) -> Row:
    """Find what is left after the costs of a month."""
    (person,) = draw_people(rng, 1)
    pay, rent = rng.randint(14, 22) * 100, rng.randint(4, 8) * 100
    food = rng.choice([60, 70, 80, 90])
    fare = rng.choice([30, 40, 55, 65])
    meals = food * 4
    costs = rent + meals
    question = rng.choice(
        [
            (
                f"{person} earns ${pay} a month. The rent is ${rent}, food costs ${food} a week, and "
                f"the bus pass is ${fare} a month. How many dollars are left after a month of "
                f"four weeks?"
            ),
            (
                f"Every month {person} pays ${rent} for a room and ${fare} for the train, and every "
                f"week ${food} for food. How much of {person.his} pay of ${pay} is left after a month "
                f"with four weeks?"
            ),
        ]
    )
    steps = [
        f"The food costs {work(4, '*', food)} dollars a month.",
        f"Rent and food cost {work(rent, '+', meals)} dollars.",
        f"With the fare it is {work(costs, '+', fare)} dollars.",
        f"{person} keeps {work(pay, '-', costs + fare)} dollars.",
    ]
    return problem(question, steps, pay - costs - fare)


def ribbon_pieces(rng: Random) -> Row:
    """Cut a length into pieces."""
    (person,) = draw_people(rng, 1)
    material = rng.choice(["ribbon", "rope", "wire", "string"])
    piece, pieces, waste = rng.randint(12, 45), rng.randint(6, 18), rng.randint(1, 9)
    used = piece * pieces
    metres = -(-(used + waste * 10) // 100)
    rest = metres * 100 - used
    question = rng.choice(
        [
            (
                f"{person} cuts {pieces} pieces of {piece} cm from {metres} m of {material}. "
                f"How many centimetres of {material} are left?"
            ),
            (
                f"A roll holds {metres} m of {material}. {person} needs {pieces} pieces, each {piece} "
                f"cm long. How many centimetres remain on the roll?"
            ),
        ]
    )
    steps = [
        f"There are {work(metres, '*', 100)} cm of {material}.",
        f"The pieces take {work(pieces, '*', piece)} cm.",
        f"What is left is {work(metres * 100, '-', used)} cm.",
    ]
    return problem(question, steps, rest)


def seats_in_a_hall(rng: Random) -> Row:
    """Find how many seats are empty."""
    hall = rng.choice(["cinema", "theatre", "concert hall", "school hall"])
    rows, seats = rng.randint(8, 15), rng.randint(9, 20)
    groups, size = rng.randint(2, 4), rng.randint(8, 24)
    total, taken = rows * seats, groups * size
    others = rng.randint(3, total - taken - 5) if total - taken > 10 else 2
    free = total - taken - others
    question = rng.choice(
        [
            (
                f"A {hall} has {rows} rows of {seats} seats. {groups} groups of {size} people and "
                f"{others} other people have come. How many seats are empty?"
            ),
            (
                f"In a {hall} there are {rows} rows with {seats} seats in each. {groups} school "
                f"classes with {size} people each sit down, and then {others} more people. "
                f"How many seats stay free?"
            ),
        ]
    )
    steps = [
        f"The {hall} has {work(rows, '*', seats)} seats.",
        f"The groups take {work(groups, '*', size)} seats.",
        f"Then {work(total, '-', taken)} seats are free.",
        f"After the others sit down, {work(total - taken, '-', others)} seats are empty.",
    ]
    return problem(question, steps, free)


def days_of_food(rng: Random) -> Row:
    """Find how long a stock lasts."""
    (keeper,) = draw_people(rng, 1)
    animal, food = rng.choice(
        [("dogs", "g of food"), ("rabbits", "g of hay"), ("cats", "g of fish")]
    )
    big, small = rng.randint(2, 5), rng.randint(2, 6)
    much, little = rng.choice([200, 250, 300]), rng.choice([80, 100, 120, 150])
    days = rng.randint(3, 9)
    for_big, for_small = big * much, small * little
    daily = for_big + for_small
    stock = daily * days
    question = rng.choice(
        [
            (
                f"{keeper} has {big} big and {small} small {animal}. A big one gets {much} {food} a "
                f"day and a small one {little}. There are {stock} {food}. How many days does it last?"
            ),
            (
                f"In a shelter each of {big} large {animal} eats {much} {food} a day, and each of "
                f"{small} small ones eats {little}. {keeper} buys {stock} {food}. For how many days is "
                f"that enough?"
            ),
        ]
    )
    steps = [
        f"The big ones eat {work(big, '*', much)} g a day.",
        f"The small ones eat {work(small, '*', little)} g a day.",
        f"Together they eat {work(for_big, '+', for_small)} g a day.",
        f"The food lasts {work(stock, '/', daily)} days.",
    ]
    return problem(question, steps, days)


def apples_for_the_market(rng: Random) -> Row:
    """Pick fruit, pack it and sell it."""
    (grower,) = draw_people(rng, 1)
    fruit = rng.choice(["apples", "pears", "peaches", "oranges"])
    size, trees, price = rng.choice([5, 6, 8, 10]), rng.randint(3, 9), rng.randint(2, 5)
    each = size * rng.randint(2, 6)
    picked = trees * each
    bags = picked // size
    question = rng.choice(
        [
            (
                f"{grower} picks {each} {fruit} from each of {trees} trees, packs them in bags of "
                f"{size} and sells every bag for ${price}. How many dollars does {grower.he} take in?"
            ),
            (
                f"There are {trees} trees in {grower}'s orchard, and each bears {each} {fruit}. A bag "
                f"of {size} {fruit} sells for ${price}. What are all the {fruit} worth in dollars?"
            ),
        ]
    )
    steps = [
        f"There are {work(trees, '*', each)} {fruit}.",
        f"They fill {work(picked, '/', size)} bags.",
        f"The bags bring {work(bags, '*', price)} dollars.",
    ]
    return problem(question, steps, bags * price)


def burning_candle(rng: Random) -> Row:
    """Find for how many evenings a candle lasts."""
    (owner,) = draw_people(rng, 1)
    hourly, hours, evenings = rng.randint(1, 3), rng.randint(2, 4), rng.randint(3, 9)
    stump = rng.randint(2, 5)
    used = hourly * hours
    height = used * evenings + stump
    question = rng.choice(
        [
            (
                f"A candle is {height} cm tall and gets {hourly} cm shorter in an hour. {owner} lights "
                f"it for {hours} hours every evening and stops when {stump} cm are left. For how many "
                f"evenings does it last?"
            ),
            (
                f"{owner} burns a candle of {height} cm for {hours} hours each evening. It loses "
                f"{hourly} cm an hour. After how many evenings is it {stump} cm tall?"
            ),
        ]
    )
    steps = [
        f"The candle may lose {work(height, '-', stump)} cm.",
        f"In one evening it loses {work(hourly, '*', hours)} cm.",
        f"It lasts for {work(height - stump, '/', used)} evenings.",
    ]
    return problem(question, steps, evenings)


def stairs_every_day(rng: Random) -> Row:
    """Count the steps of a staircase over several days."""
    (person,) = draw_people(rng, 1)
    floors, steps_each, climbs = rng.randint(2, 6), rng.randint(14, 22), rng.randint(2, 5)
    days = rng.randint(3, 6)
    once = floors * steps_each
    daily = once * climbs
    question = rng.choice(
        [
            (
                f"{person} lives {floors} floors up, and each floor has {steps_each} steps. "
                f"{person.he.capitalize()} climbs them {climbs} times a day. How many steps does "
                f"{person.he} climb in {days} days?"
            ),
            (
                f"To reach {person}'s office you climb {floors} floors of {steps_each} steps each. "
                f"{person} does that {climbs} times a day on {days} days. How many steps are these?"
            ),
        ]
    )
    steps = [
        f"One climb has {work(floors, '*', steps_each)} steps.",
        f"In a day it is {work(once, '*', climbs)} steps.",
        f"In {days} days it is {work(daily, '*', days)} steps.",
    ]
    return problem(question, steps, daily * days)


def photos_in_albums(rng: Random) -> Row:
    """Find how many photos do not fit."""
    (person,) = draw_people(rng, 1)
    albums, pages, each = rng.randint(2, 4), rng.randint(10, 25), rng.randint(3, 6)
    total_pages = albums * pages
    room = total_pages * each
    left = rng.randint(5, 60)
    question = rng.choice(
        [
            (
                f"{person} has {room + left} photos and {albums} albums with {pages} pages each. "
                f"{each} photos fit on a page. How many photos do not fit into the albums?"
            ),
            (
                f"An album has {pages} pages for {each} photos each. {person} fills {albums} albums "
                f"from a box of {room + left} photos. How many photos stay in the box?"
            ),
        ]
    )
    steps = [
        f"The albums have {work(albums, '*', pages)} pages.",
        f"They hold {work(total_pages, '*', each)} photos.",
        f"{work(room + left, '-', room)} photos are left over.",
    ]
    return problem(question, steps, left)


def taxi_fare(rng: Random) -> Row:
    """Share a fare with a fixed part."""
    a, b = draw_people(rng, 2)
    start, per_km = 2 * rng.randint(2, 5), rng.randint(2, 4)
    km = 2 * rng.randint(3, 15)
    way = km * per_km
    total = start + way
    question = rng.choice(
        [
            (
                f"A taxi costs ${start} to start and ${per_km} for each kilometre. {a} and {b} ride "
                f"{km} km and share the fare equally. How many dollars does each of them pay?"
            ),
            (
                f"{a} and {b} take a taxi for {km} km. The driver asks ${per_km} a kilometre and ${start} "
                f"on top. They split the bill in half. How much does {a} pay?"
            ),
        ]
    )
    steps = [
        f"The kilometres cost {work(km, '*', per_km)} dollars.",
        f"The fare is {work(way, '+', start)} dollars.",
        f"Each pays {work(total, '/', 2)} dollars.",
    ]
    return problem(question, steps, total // 2)


def slices_of_bread(rng: Random) -> Row:
    """Find how many loaves a party needs."""
    (host,) = draw_people(rng, 1)
    slices = rng.choice([12, 16, 18, 20, 24])
    guests, each = rng.choice(
        [(g, e) for g in range(6, 40) for e in range(2, 5) if g * e * 2 % slices == 0]
    )
    sandwiches = guests * each
    needed = sandwiches * 2
    question = rng.choice(
        [
            (
                f"{host} makes {each} sandwiches for each of {guests} guests. A sandwich takes two "
                f"slices of bread, and a loaf has {slices} slices. How many loaves does "
                f"{host.he} need?"
            ),
            (
                f"{guests} people come to {host}'s picnic, and everyone eats {each} sandwiches of two "
                f"slices each. Bread comes in loaves of {slices} slices. How many loaves is that?"
            ),
        ]
    )
    steps = [
        f"{host} makes {work(guests, '*', each)} sandwiches.",
        f"They take {work(sandwiches, '*', 2)} slices.",
        f"That is {work(needed, '/', slices)} loaves.",
    ]
    return problem(question, steps, needed // slices)


def growing_plant(rng: Random) -> Row:
    """Compare the heights of two plants after some weeks."""
    a, b = draw_people(rng, 2)
    plant = rng.choice(["sunflower", "bean", "bamboo", "climbing rose"])
    slow, faster = rng.randint(3, 9), rng.randint(2, 8)
    fast, weeks, head_start = slow + faster, rng.randint(6, 14), rng.randint(2, 11)
    tall, short = fast * weeks, slow * weeks
    question = rng.choice(
        [
            (
                f"{a}'s {plant} grows {fast} cm a week and {b}'s grows {slow} cm a week. {b}'s was "
                f"{head_start} cm tall when {a}'s came out of the ground. By how many centimetres is "
                f"{a}'s taller {weeks} weeks later?"
            ),
            (
                f"{a} plants a {plant} that grows {fast} cm a week. On that day {b}'s {plant} is "
                f"{head_start} cm tall, and it grows {slow} cm a week. After {weeks} weeks {a}'s is "
                f"taller. How many centimetres is the difference?"
            ),
        ]
    )
    steps = [
        f"In that time {a}'s {plant} grows by {work(fast, '*', weeks)} cm.",
        f"The other one grows by {work(slow, '*', weeks)} cm.",
        f"It is then {work(short, '+', head_start)} cm tall.",
        f"The difference between them is {work(tall, '-', short + head_start)} cm.",
    ]
    return problem(question, steps, tall - short - head_start)


def typing_a_report(rng: Random) -> Row:
    """Find how long the rest of a text takes."""
    a, b = draw_people(rng, 2)
    fast, slow = rng.choice([40, 50, 60, 70]), rng.choice([20, 25, 30, 35])
    first, rest = rng.randint(5, 15), rng.randint(4, 20)
    words = fast * first + slow * rest
    question = rng.choice(
        [
            (
                f"A report has {words} words. {a} types {fast} words a minute for {first} minutes, and "
                f"then {b} goes on with {slow} words a minute. How many minutes does {b} need?"
            ),
            (
                f"{a} and {b} type a text of {words} words. {a} begins with {fast} words a minute and "
                f"stops after {first} minutes. {b} types {slow} words a minute. How long does "
                f"{b.he} take for the rest, in minutes?"
            ),
        ]
    )
    steps = [
        f"{a} types {work(fast, '*', first)} words.",
        f"There are {work(words, '-', fast * first)} words left.",
        f"{b} needs {work(slow * rest, '/', slow)} minutes.",
    ]
    return problem(question, steps, rest)


def crates_of_bottles(rng: Random) -> Row:
    """Drink from full crates and count what is left."""
    (host,) = draw_people(rng, 1)
    crates, size = rng.randint(3, 9), rng.choice([6, 8, 12, 15, 20, 24])
    total = crates * size
    guests = rng.randint(4, max(5, total // 4))
    each = rng.randint(1, 3)
    drunk = guests * each
    drink = rng.choice(["lemonade", "water", "juice", "iced tea"])
    question = rng.choice(
        [
            (
                f"{host} buys {crates} crates with {size} bottles of {drink} each. At the party each "
                f"of the {guests} guests drinks {each}. How many bottles are left?"
            ),
            (
                f"A crate holds {size} bottles of {drink}. There are {crates} crates in {host}'s "
                f"cellar, and {guests} guests take {each} each. How many bottles remain?"
            ),
        ]
    )
    steps = [
        f"There are {work(crates, '*', size)} bottles.",
        f"The guests take {work(guests, '*', each)} bottles.",
        f"{work(total, '-', drunk)} bottles are left.",
    ]
    return problem(question, steps, total - drunk)


def there_and_back(rng: Random) -> Row:
    """Add the hours of two journeys over the same distance."""
    (rider,) = draw_people(rng, 1)
    there, back = rng.choice([(15, 10), (20, 15), (12, 8), (20, 10), (18, 12), (24, 16), (16, 12)])
    km = rng.choice([n for n in range(30, 400) if n % there == 0 and n % back == 0])
    pause = rng.randint(1, 3)
    out, home = km // there, km // back
    hours = "hour" if pause == 1 else "hours"
    question = rng.choice(
        [
            (
                f"{rider} cycles {km} km to the coast at {there} km an hour, rests for {pause} {hours} "
                f"and cycles the same way back at {back} km an hour. How many hours does it all take?"
            ),
            (
                f"The lake is {km} km away. {rider} rides there at {there} km an hour and home at "
                f"{back} km an hour, with a break of {pause} {hours} at the lake. After how many hours "
                f"is {rider.he} home again?"
            ),
        ]
    )
    steps = [
        f"The way there takes {work(km, '/', there)} hours.",
        f"The way back takes {work(km, '/', back)} hours.",
        f"Both take {work(out, '+', home)} hours.",
        f"With the break it is {work(out + home, '+', pause)} hours.",
    ]
    return problem(question, steps, out + home + pause)


FAMILIES: tuple[Family, ...] = (
    change_from_a_note,
    two_kinds_of_goods,
    sharing_what_is_left,
    three_ages,
    saving_up,
    finishing_a_book,
    journey_in_two_parts,
    rows_in_a_garden,
    price_in_a_sale,
    people_on_a_bus,
    eggs_for_cakes,
    fence_around_a_field,
    tiles_on_a_floor,
    pay_with_overtime,
    three_collections,
    ways_to_school,
    score_for_an_average,
    filling_a_tank,
    tickets_sold,
    recipe_for_more,
    steps_in_a_week,
    points_in_a_match,
    library_fines,
    parking_fee,
    legs_on_a_farm,
    two_machines,
    doubling_each_day,
    practice_in_hours,
    profit_of_a_stand,
    sharing_by_parts,
    apples_for_the_market,
    burning_candle,
    stairs_every_day,
    photos_in_albums,
    taxi_fare,
    slices_of_bread,
    growing_plant,
    typing_a_report,
    crates_of_bottles,
    there_and_back,
)
HELD_OUT_FAMILIES: tuple[Family, ...] = (
    rent_of_a_room,
    ribbon_pieces,
    seats_in_a_hall,
    days_of_food,
)
