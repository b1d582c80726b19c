"""Questions about countries and their one right answer, made from facts.txt in very many wordings.

Owns how a question is put together from the parts in wordings.txt (an opening, a core, a tail, casing,
missing punctuation, a typing slip), so that the model meets hundreds of thousands of different questions and
learns the meaning, not the strings. An answer never depends on the wording: one fact, one sentence. What the
model must refuse is made in offtopic.py; conversations.py makes conversations of both.
"""

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from random import Random

REFUSAL = "Sorry, I only know about countries: their capitals, continents and currencies."


@dataclass(frozen=True)
class Country:
    name: str  # as a sentence needs it: "the Netherlands"
    capital: str
    remark: str
    continent: str
    currency: str
    aliases: tuple[str, ...]

    def answer(self, relation: str) -> str:
        tail = f"; {self.remark}" if self.remark else ""
        return {
            "capital": f"The capital of {self.name} is {self.capital}{tail}.",
            "country": f"{self.capital} is the capital of {self.name}.",
            "continent": f"{self.name[0].upper()}{self.name[1:]} is in {self.continent}.",
            "currency": f"The currency of {self.name} is the {self.currency}.",
        }[relation].replace("D.C..", "D.C.")


def read_facts(path: Path) -> list[Country]:
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [parse_country(row) for row in rows]


def parse_country(row: str) -> Country:
    name, capital, continent, currency, aliases = (field.strip() for field in row.split(";"))
    capital, _, remark = (part.strip() for part in capital.partition("|"))
    others = tuple(alias.strip() for alias in aliases.split(",") if alias.strip())
    return Country(name, capital, remark, continent, currency, others)


CONTINENTS = ("Europe", "Asia", "Africa", "North America", "South America", "Oceania")


def read_sections(path: Path) -> dict[str, list[str]]:
    """A file of "[section]" lines, each followed by lines of entries parted by "|"."""
    sections: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            entries = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            entries += [entry.strip() for entry in line.split("|") if entry.strip()]
    return sections


WORDINGS = read_sections(Path(__file__).with_name("wordings.txt"))


def ask(random: Random, relation: str, country: Country, fillers: list[str], cities: list[str]) -> str:
    """One question of this relation about this country, in a wording of its own."""
    core = fill(random, random.choice(WORDINGS[relation]), relation, country, cities)
    return roughen(random, dress(random, core, fillers), spared=country)


def ask_on(random: Random, country: Country) -> str:
    """A follow-up that leaves the relation to the turn before: "And Spain?"."""
    core = fill(random, random.choice(WORDINGS["follow-up"]), "follow-up", country, [])
    return roughen(random, core, spared=country)


def fill(random: Random, wording: str, relation: str, country: Country, cities: list[str]) -> str:
    use_alias = country.aliases and random.random() < 0.4
    name = random.choice(country.aliases) if use_alias else country.name
    bare = name.removeprefix("the ")
    city = country.capital
    if relation == "capital" and random.random() < 0.5:
        city = random.choice(cities)  # "Is Lyon the capital of France?"
    if random.random() < 0.15:
        name, bare, city = plain(name), plain(bare), plain(city)
    if random.random() < 0.1:
        name = bare
    text = wording.replace("{c}", name).replace("{b}", bare).replace("{p}", city)
    while "{k}" in text:
        text = text.replace("{k}", random.choice(CONTINENTS), 1)
    return text


def plain(text: str) -> str:
    """Without accents, as most people type."""
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def dress(random: Random, core: str, fillers: list[str]) -> str:
    """Put an opening, an unrelated sentence or a tail around the core."""
    core = core[0].upper() + core[1:]
    draw = random.random()
    if draw < 0.22:
        opening = random.choice(WORDINGS["opening"])
        core = f"{opening[0].upper()}{opening[1:]} {core if opening[-1] in '.!?' else lower_first(core)}"
    elif draw < 0.36:
        core = f"{' '.join(random.sample(fillers, random.choice((1, 1, 2))))} {core}"
    draw = random.random()
    if draw < 0.12:
        tail = random.choice(WORDINGS["tail"])
        core = core.rstrip("?.") + tail if tail[0] in ",?!." else f"{core} {tail[0].upper()}{tail[1:]}"
    elif draw < 0.18:
        core = f"{core} {random.choice(fillers)}"
    return core


def lower_first(text: str) -> str:
    return text[0].lower() + text[1:]


def roughen(random: Random, text: str, spared: Country | None = None) -> str:
    """Type it as people do: casing, missing punctuation, a slip of the finger (seldom inside a name)."""
    if random.random() < 0.07:
        text = slip(random, text, spared)
    draw = random.random()
    if draw < 0.2:
        text = text.lower()
    elif draw < 0.27:
        text = text.upper()
    elif draw < 0.33:
        text = text.title() if random.random() < 0.2 else lower_first(text)
    draw = random.random()
    if draw < 0.2:
        text = text.rstrip("?.!") or text
    elif draw < 0.25:
        text = text.replace("'", "").replace(",", "")
    elif draw < 0.27:
        text = text.replace("'", "\u2019")
    elif draw < 0.29:
        text = f'"{text}"'
    return text


def slip(random: Random, text: str, spared: Country | None) -> str:
    words = text.split(" ")
    at = random.randrange(len(words))
    word = words[at]
    names = f"{spared.name} {' '.join(spared.aliases)} {spared.capital}" if spared else ""
    in_name = word.strip("?.,!'s") in names
    if len(word) < (7 if in_name else 4):
        return text
    i = random.randrange(1, len(word) - 2)
    words[at] = random.choice(
        (
            word[:i] + word[i + 1 :],  # a letter left out
            word[:i] + word[i] + word[i:],  # a letter doubled
            word[:i] + word[i + 1] + word[i] + word[i + 2 :],  # two letters swapped
        )
    )
    return " ".join(words)
