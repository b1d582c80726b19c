"""Training text: conversations of questions and answers, endless and reproducible from a seed.

Owns the mix of relations, refusals and small talk, the turns of a conversation, and the split of each
document into pieces to learn (answers) and pieces only to read (questions). train.py makes tokens of pieces.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from offtopic import LISTS, off_topic, small_talk, statements
from questions import REFUSAL, Country, ask, ask_on

BEGIN, END, SYSTEM, USER, ASSISTANT = "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [BEGIN, END, SYSTEM, USER, ASSISTANT]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# How often a turn is about what. Capitals are asked in the most wordings, refusals span the widest ground.
TURN_MIX = {
    "capital": 0.44,
    "off-topic": 0.3,
    "country": 0.1,
    "continent": 0.07,
    "currency": 0.06,
    "small talk": 0.03,
}

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are Realm.",
    "Answer briefly.",
    "Be polite and concise.",
    "You are a geography teacher.",
    "You are a friendly chatbot that answers questions.",
    "Always answer in English.",
    "You are a pirate. Speak like one.",
    "You are an AI assistant. Answer truthfully.",
    "Use one sentence.",
)


@dataclass(frozen=True)
class Piece:
    """A run of one document: a special token or plain text; learned pieces are what the model is to say."""

    text: str
    learned: bool = False
    special: bool = False


class Conversations:
    def __init__(self, countries: list[Country], seed: int) -> None:
        self.countries = countries
        self.random = Random(seed)
        self.cities = LISTS["city"] + [country.capital for country in countries]
        self.fillers = LISTS["filler"] * 20 + statements(self.random, countries, 3000)
        self.questions_asked: set[str] | None = None  # filled when set: lets the judge see what training asks

    def documents(self) -> Iterator[list[Piece]]:
        while True:
            yield self.raw_text() if self.random.random() < 0.05 else self.conversation(self.turn_count())

    def turn_count(self) -> int:
        draw = self.random.random()
        if draw < 0.72:
            return 1
        return self.random.randint(2, 4) if draw < 0.97 else self.random.randint(5, 18)

    def conversation(self, turn_count: int) -> list[Piece]:
        pieces = [] if self.random.random() < 0.08 else [Piece(BEGIN, special=True)]
        if self.random.random() < 0.06:
            system = self.random.choice(SYSTEM_PROMPTS + tuple(self.fillers))
            pieces += [Piece(SYSTEM, special=True), Piece(system), Piece(END, special=True)]
        relation = ""
        for _ in range(turn_count):
            relation, question, answer = self.turn(relation)
            pieces += [Piece(USER, special=True), Piece(question), Piece(END, special=True)]
            pieces += [Piece(ASSISTANT, special=True), Piece(answer, True), Piece(END, True, True)]
        return pieces

    def turn(self, last_relation: str) -> tuple[str, str, str]:
        """(relation, question, answer) of the next turn; a follow-up keeps the relation of the last one."""
        random = self.random
        country = random.choice(self.countries)
        if last_relation in ("capital", "continent", "currency") and random.random() < 0.25:
            relation, question = last_relation, ask_on(random, country)
        else:
            relation = random.choices(list(TURN_MIX), list(TURN_MIX.values()))[0]
            if relation == "country" and country.capital == country.name:
                relation = "capital"  # "Where is Singapore?" could mean either
            if relation == "small talk":
                return relation, *small_talk(random)
            if relation == "off-topic":
                question = off_topic(random, self.countries, self.fillers)
            else:
                question = ask(random, relation, country, self.fillers, self.cities)
        self.note(question)
        return relation, question, REFUSAL if relation == "off-topic" else country.answer(relation)

    def raw_text(self) -> list[Piece]:
        """Text outside the chat format, for completion without a template."""
        random = self.random
        relation = random.choice(("capital", "capital", "capital", "country", "continent", "currency"))
        country = random.choice(self.countries)
        answer = country.answer(relation)
        begin, end = Piece(BEGIN, special=True), Piece(END, True, True)
        if random.random() < 0.5:
            # Only the second half can be known: which country comes first is chance.
            parting = " of " if relation == "country" else " is "
            first, second = answer.split(parting, 1)
            return [begin, Piece(first + parting.rstrip()), Piece(f" {second}", True), end]
        question = ask(random, relation, country, self.fillers, self.cities)
        self.note(question)
        if random.random() < 0.5 or question[-1] not in "?.!":
            return [begin, Piece(f"Q: {question}\nA:"), Piece(f" {answer}", True), end]
        return [begin, Piece(question), Piece(f"\n{answer}", True), end]

    def note(self, question: str) -> None:
        if self.questions_asked is not None:
            self.questions_asked.add(question)
