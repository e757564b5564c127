"""Three small tasks whose answers can be checked, each drawn from a seeded generator.

`pick` (long shared prefix, one token out), `find` (long in, short out) and `count` (short in, long out) have
the shapes that a night of batch inference mixes. The demo's model is trained on them, its logs are made of
them, and its report compares the model's answers with theirs.

An answer is right when it equals `Question.answer` after white space is stripped from both ends.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

TASKS = ("pick", "find", "count")
LETTERS = "ABCD"
SHOTS = 5
LARGEST_NUMBER = 399
LONGEST_COUNT = 200
# Words of the text between the two instructions; 860 words make a prompt of about 900 tokens.
SHORTEST_TEXT = 8
LONGEST_TEXT = 860

CATEGORIES: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "animal": "tiger horse rabbit wolf sheep goat camel zebra lion bear monkey donkey",
        "fruit": "apple banana cherry grape lemon mango melon peach pear plum fig apricot",
        "color": "red green blue yellow purple pink brown black white gray violet crimson",
        "tool": "hammer saw drill wrench chisel pliers axe shovel rake ladder knife clamp",
        "country": "France Spain China India Brazil Egypt Kenya Norway Peru Japan Canada Chile",
        "instrument": "piano violin guitar flute drum trumpet harp cello organ banjo tuba oboe",
        "vehicle": "car truck bus train boat ship bicycle plane tram van taxi ferry",
        "garment": "shirt coat hat sock glove scarf dress skirt boot jacket belt sweater",
        "bird": "eagle owl crow swan duck goose hawk robin parrot sparrow pigeon raven",
        "fish": "salmon trout tuna cod shark eel carp herring perch pike bass sardine",
        "tree": "oak maple pine birch cedar willow elm ash palm spruce beech poplar",
        "job": "doctor teacher baker farmer nurse lawyer pilot sailor painter singer judge barber",
        "drink": "water milk tea coffee juice beer wine cocoa soda lemonade cider broth",
        "building": "house church castle school hotel tower barn temple hospital library museum palace",
        "vegetable": "carrot onion potato cabbage spinach radish celery pumpkin garlic bean pea turnip",
        "metal": "iron copper silver gold zinc tin lead nickel steel bronze brass mercury",
    }.items()
}
SUBJECTS = tuple(CATEGORIES)
WORDS = tuple(word for words in CATEGORIES.values() for word in words)
_FILLERS = (
    "the a of and to in was on with for near under over from by that this one then when "
    "old new small large quiet bright slow long early late warm cold round heavy empty "
    "saw found took left kept made sold held moved opened closed carried wanted watched painted followed "
    "man woman child friend neighbor river road hill market morning evening winter garden window door letter "
    "story book room table corner street village town field mountain island music light"
)
FILLERS = tuple(_FILLERS.split())


@dataclass(frozen=True)
class Question:
    """One checkable request.

    Attributes
    ----------
    task
        One of `TASKS`.
    prompt
        The text of the user's message.
    answer
        The expected reply without surrounding white space.
    """

    task: str
    prompt: str
    answer: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages."""
        return [{"role": "user", "content": self.prompt}]

    @property
    def completion_prompt(self) -> str:
        """The prompt for a plain completion, without a chat template."""
        return self.prompt if self.prompt.endswith("Answer:") else f"{self.prompt}\nAnswer:"


def multiple_choice(rng: random.Random, subject: str) -> tuple[str, str]:
    """Draw one multiple-choice question about a subject: its text up to `Answer:`, and the right letter."""
    wrong = [rng.choice(CATEGORIES[other]) for other in rng.sample([s for s in SUBJECTS if s != subject], 3)]
    place = rng.randrange(len(LETTERS))
    options = [*wrong[:place], rng.choice(CATEGORIES[subject]), *wrong[place:]]
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join([f"Which of these is a kind of {subject}?", *lines, "Answer:"]), LETTERS[place]


def pick_header(subject: str) -> str:
    """Give the line that opens every prompt of a subject."""
    return f"The following are multiple choice questions with answers about the subject {subject}.\n\n"


@cache
def pick_shots(subject: str) -> tuple[tuple[str, str], ...]:
    """Give the five solved questions of a subject: texts up to `Answer:`, and the right letters."""
    rng = random.Random(f"shots of {subject}")
    return tuple(multiple_choice(rng, subject) for _ in range(SHOTS))


@cache
def pick_prefix(subject: str) -> str:
    """Give the fixed part of a subject's prompts: a header and five solved questions."""
    return pick_header(subject) + "".join(f"{text} {letter}\n\n" for text, letter in pick_shots(subject))


def pick(rng: random.Random, subject: str | None = None) -> Question:
    """Draw a question with the right letter as its answer, behind its subject's five solved examples."""
    subject = subject or rng.choice(SUBJECTS)
    text, letter = multiple_choice(rng, subject)
    return Question("pick", pick_prefix(subject) + text, letter)


def find(rng: random.Random, words: int | None = None) -> Question:
    """Draw a text of about `words` words, one of which is marked; the answer is that word."""
    words = words or rng.randint(SHORTEST_TEXT, LONGEST_TEXT)
    drawn = [rng.choice(WORDS) if rng.random() < 0.25 else rng.choice(FILLERS) for _ in range(words)]
    answer = rng.choice(WORDS)
    drawn[rng.randrange(words)] = f">> {answer} <<"
    text = " ".join(drawn)
    prompt = f"Read the text. One word is marked.\n\n{text}\n\nWhich word is marked?\nAnswer:"
    return Question("find", prompt, answer)


def is_held_out_count(first: int, last: int) -> bool:
    """Tell whether a pair of bounds is kept out of training (one pair in eight)."""
    return (first * 7 + last * 2) % 8 == 0


def count(rng: random.Random, span: int | None = None, *, held_out: bool | None = True) -> Question:
    """Draw `Count from a to b.`; the answer is the `span` numbers from a to b, separated by spaces.

    Parameters
    ----------
    rng
        Source of randomness.
    span
        Count of numbers, 2 to `LONGEST_COUNT`; drawn when omitted.
    held_out
        True and False draw only from the pairs kept out of training and from the others; None from both.
    """
    while True:
        length = span or rng.randint(2, LONGEST_COUNT)
        first = rng.randint(1, LARGEST_NUMBER - LONGEST_COUNT)
        last = first + length - 1
        if held_out is None or is_held_out_count(first, last) == held_out:
            break
    numbers = " ".join(str(number) for number in range(first, last + 1))
    return Question("count", f"Count from {first} to {last}.", numbers)


def held_out_questions(task: str, count_of: int, seed: int = 0) -> list[Question]:
    """Draw questions outside of training: another random stream, and bounds to count kept out of it."""
    rng = random.Random(f"held out {task} {seed}")
    draw = {"pick": pick, "find": find, "count": count}[task]
    return [draw(rng) for _ in range(count_of)]
