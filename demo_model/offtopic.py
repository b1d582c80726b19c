"""Questions the demo model must refuse, and small talk it may answer.

Owns everything outside the model's knowledge: other subjects, sums, code, nonsense, countries that do not
exist or are no countries. Wordings and word lists stand in offtopic.txt; syllables make names and gibberish
nobody wrote down, so the model learns to refuse what it has not seen.
"""

import re
from pathlib import Path
from random import Random

from questions import REFUSAL, Country, dress, read_sections, roughen

LISTS = read_sections(Path(__file__).with_name("offtopic.txt"))
WORD_SECTIONS = ("thing", "things", "noun", "abstract", "quality", "job", "animals", "food", "do")
WORDS = sorted({word for section in WORD_SECTIONS for entry in LISTS[section] for word in entry.split()})
NOWHERE_SECTIONS = (
    "invented", "invented", "region", "region", "city", "person", "thing", "things", "company", "planet",
)  # fmt: skip

ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kr pl qu sh sk st str th tr".split()
NUCLEI = "a e i o u a e i o ai ea ei ia io oo ou y".split()
CODAS = ["", "", "", *"n r s l m t k n r nd rk st x th ng".split()]
LAND_ENDINGS = "ia land stan a o istan onia aria burg ovia ea ania ica us or is um ville ton heim dor".split()
NAME_STARTS = "New North South East West Upper Great San Saint Port".split()
NAME_ENDS = "Islands Republic Empire Union Kingdom Federation".split()
REALMS = ("Republic", "Kingdom", "United States", "Empire", "land")
KEYS = "qwertyuiop asdfghjkl zxcvbnm".split()

SMALL_TALK = {
    "greeting": "Hello! Ask me about a country, for example about its capital.",
    "well-being": "I am fine, thank you! Ask me about a country, for example about its capital.",
    "thanks": "You are welcome! Ask me about another country.",
    "parting": "Goodbye!",
    "identity": f"I am the demo model of Realm. {REFUSAL.removeprefix('Sorry, ')}",
}


def small_talk(random: Random) -> tuple[str, str]:
    section, answer = random.choice(list(SMALL_TALK.items()))
    text = random.choice(LISTS[section])
    text = text[0].upper() + text[1:]
    return roughen(random, text if text[-1] in "?!" else text + random.choice(("", "", ".", "!"))), answer


def statements(random: Random, countries: list[Country], count: int) -> list[str]:
    """Sentences to put around a question: they mean nothing, whatever they mention."""
    return [fill_slots(random, random.choice(LISTS["statement"]), countries) for _ in range(count)]


def off_topic(random: Random, countries: list[Country], fillers: list[str]) -> str:
    """A question with no answer among the facts."""
    if random.random() < 0.33:
        text = fill_slots(random, random.choice(LISTS["nowhere"]), countries)
    else:
        text = fill_slots(random, random.choice(LISTS["wording"]), countries)
    return roughen(random, dress(random, text, fillers))


def fill_slots(random: Random, wording: str, countries: list[Country]) -> str:
    return re.sub(r"\{(\w+)\}", lambda slot: slot_value(random, slot[1], countries), wording)


def slot_value(random: Random, slot: str, countries: list[Country]) -> str:
    if slot in ("c", "b"):
        name = random.choice(countries).name
        return name if slot == "c" else name.removeprefix("the ")
    if slot == "x":
        return nowhere(random, countries)
    made = {"n": number, "year": year, "gibberish": gibberish, "word": any_word}
    return made[slot](random) if slot in made else random.choice(LISTS[slot])


def number(random: Random) -> str:
    return str(random.randrange(10 ** random.randint(1, 4)))


def year(random: Random) -> str:
    return str(random.randrange(1000, 2100))


def any_word(random: Random) -> str:
    return random.choice(WORDS)


def nowhere(random: Random, countries: list[Country]) -> str:
    """Something that has no capital: an invented land, a region, a city, a person, a thing."""
    draw = random.random()
    if draw < 0.35:
        return invented_name(random)
    if draw < 0.5:
        return spliced_name(random, countries)
    return random.choice(LISTS[random.choice(NOWHERE_SECTIONS)])


def invented_name(random: Random) -> str:
    name = "".join(syllable(random) for _ in range(random.randint(1, 3))) + random.choice(LAND_ENDINGS)
    name = name[0].upper() + name[1:]
    draw = random.random()
    if draw < 0.12:
        return f"{random.choice(NAME_STARTS)} {name}"
    if draw < 0.2:
        return f"the {random.choice(REALMS)} of {name}"
    if draw < 0.25:
        return f"the {name} {random.choice(NAME_ENDS)}"
    return name


def spliced_name(random: Random, countries: list[Country]) -> str:
    """The head of one country's name and the tail of another's: close to the truth, yet no country."""
    names = [country.name.removeprefix("the ") for country in countries]
    while True:
        head, tail = random.sample(names, 2)
        name = head[: random.randint(2, 4)] + tail[-random.randint(3, 5) :].lower()
        if name not in names:
            return name


def syllable(random: Random) -> str:
    return random.choice(ONSETS) + random.choice(NUCLEI) + random.choice(CODAS)


def gibberish(random: Random) -> str:
    """Made-up words, hammered keys, or symbols."""
    draw = random.random()
    if draw < 0.5:
        return "".join(syllable(random) for _ in range(random.randint(1, 4)))
    if draw < 0.75:
        keys = random.choice((*KEYS, "".join(KEYS)))
        return "".join(random.choice(keys) for _ in range(random.randint(3, 12)))
    symbols = random.sample("!?#$%&*+-=.:;<>()[]@/0123456789", random.randint(1, 6))
    return "".join(random.choice(symbols) for _ in range(random.randint(1, 12)))
