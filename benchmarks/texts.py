"""Memories and questions for the latency benchmark: made up, all different, the same in every run."""

from __future__ import annotations

import random
from dataclasses import dataclass

PEOPLE = (
    "Anna", "Bilal", "Chiara", "Dmitri", "Elif", "Farid", "Greta", "Hana", "Ivo", "Jelena", "Kofi", "Lina", "Marek",
    "Nadia", "Oskar", "Priya", "Quentin", "Rosa", "Sven", "Tariq", "Ulla", "Viktor", "Wanda", "Xenia", "Yusuf", "Zora",
)  # fmt: skip
THINGS = (
    "the harbour project", "the tax return", "the greenhouse", "the choir tour", "the data centre", "the school trip",
    "the kitchen renovation", "the grant proposal", "the sailing course", "the wedding", "the allotment", "the archive",
    "the night train", "the pottery class", "the quarterly report", "the bicycle workshop", "the film festival",
)  # fmt: skip
DEEDS = (
    "decided to move {thing} to {place} because the old date clashed with {reason}",
    "ordered {number} pieces of {ware} for {thing} and wants them delivered to {place}",
    "prefers to discuss {thing} in the morning, and never on days with {reason}",
    "paid {number} euros for {ware}, which {thing} needs before anything else can start",
    "was told in {place} that {thing} waits for {ware}, and blames {reason}",
    "wrote down that {thing} has {number} open questions, most of them about {ware}",
)
WARES = ("oak boards", "copper pipe", "sheet music", "spare tyres", "seed potatoes", "projector lamps", "blue tiles",
         "printer paper", "rope", "ceramic glaze", "train tickets", "network cables")  # fmt: skip
REASONS = ("the choir rehearsal", "a strike", "the school holidays", "the dentist", "heavy rain", "an inspection",
           "the marathon", "a power cut")  # fmt: skip
PLACES = ("Ghent", "Porto", "Tartu", "Bologna", "Aarhus", "Graz", "Galway", "Lublin", "Rennes", "Malmö", "Bilbao")


@dataclass(frozen=True, slots=True)
class Sample:
    content: str
    question: str


def samples(count: int, seed: int = 1) -> list[Sample]:
    """`count` different memories of one or two sentences, each with a question about it."""
    rng = random.Random(seed)
    return [_sample(rng, number) for number in range(count)]


def _sample(rng: random.Random, number: int) -> Sample:
    person, thing, ware = rng.choice(PEOPLE), rng.choice(THINGS), rng.choice(WARES)
    deed = rng.choice(DEEDS).format(
        thing=thing, ware=ware, place=rng.choice(PLACES), reason=rng.choice(REASONS), number=rng.randrange(2, 9_999)
    )
    # The file number makes every text different, and keeps near-duplicate rules from dropping any.
    content = f"{person} {deed}. The note is in file {number + 10_000}, next to the one about {rng.choice(THINGS)}."
    return Sample(content, f"What did {person} say about {thing} and the {ware}?")
