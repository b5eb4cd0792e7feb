"""Words of a model's vocabulary that stand where given words could stand: those whose embeddings lie nearest to theirs.

For names that is other names, for cities other cities: with them questions are asked that nobody was told about, in the
model's own words. Only whole words that are one token are found; where the given ones are none, nothing is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from engine.model.loading import Loaded

LOOKED_AT = 4  # times as many tokens as words are wanted are looked at: many are parts of words
LEAST_CHARS = 2


@torch.inference_mode()  # type: ignore[untyped-decorator]
def neighbours(loaded: Loaded, words: Iterable[str], count: int) -> tuple[str, ...]:
    """Up to `count` words, none of the given ones, nearest to their middle first."""
    given = list(dict.fromkeys(words))
    ids = [id for word in given if (id := _one_token(loaded.tokenizer, word)) is not None]
    if not ids:
        return ()
    weights = loaded.model.get_input_embeddings().weight.float()
    weights = torch.nn.functional.normalize(weights - weights.mean(0), dim=-1)
    middle = weights[torch.tensor(ids, device=weights.device)].mean(0)
    near = (weights @ middle).topk(min(LOOKED_AT * (count + len(given)), weights.shape[0])).indices.tolist()
    folded, capital = {word.casefold() for word in given}, given[0][0].isupper()
    found: dict[str, None] = {}
    for id in near:
        word = _spelled(loaded.tokenizer, id)
        if word and word.casefold() not in folded and word[0].isupper() == capital:
            found.setdefault(word)
        if len(found) == count:
            break
    return tuple(found)


def _one_token(tokenizer: Any, word: str) -> int | None:
    ids: list[int] = tokenizer(" " + word, add_special_tokens=False).input_ids
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unk_token_id else None


def _spelled(tokenizer: Any, id: int) -> str | None:
    """The word that a token is, if it is a whole one."""
    word: str = tokenizer.decode([id], skip_special_tokens=True).strip()
    return word if len(word) >= LEAST_CHARS and word.isalpha() and _one_token(tokenizer, word) == id else None
