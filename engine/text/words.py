"""The words of a text, and their stems: what the lexical index keeps and what a query is looked up by.

`words` folds case, compatibility forms and Latin accents, keeps numbers whole (2.5, 1,200 as 1200), and cuts scripts
without spaces into pairs of characters. `stems` leaves out English stop words and reduces the rest with the Snowball
English stemmer, which leaves other scripts as they are. Both are pure; stems are remembered because the stemmer is
slow. This module does not know what an index is. Equal texts give equal lists in every process: the index depends on
it, so a change here is a change of `WORDS_VERSION`.
"""

from __future__ import annotations

import re
import threading
import unicodedata

import snowballstemmer

WORDS_VERSION = 1
MAX_WORD_CHARS = 64  # longer runs are keys, hashes or encoded data: nobody asks for them by heart
STEMS_REMEMBERED = 100_000

_STOP_WORDS = """
    a about above after again against all am an and any are aren as at be because been before being below between
    both but by can cannot could couldn d did didn do does doesn doing don down during each few for from further had
    hadn has hasn have haven having he her here hers herself him himself his how i if in into is isn it its itself just
    ll m me more most mustn my myself no nor not of off on once only or other ought our ours ourselves out over own re
    s same shan she should shouldn so some such t than that the their theirs them themselves then there these they this
    those through to too under until up ve very was wasn we were weren what when where which while who whom why will
    with won would wouldn you your yours yourself yourselves now
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Han: no spaces between words
# Vowel signs of Indic scripts and Thai belong to words, though they are not letters.
_SIGNS = "\u0900-\u0963\u0966-\u0dff\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
_WORD = re.compile(rf"\d+(?:[.,]\d+)+|[^\W_](?:[^\W_]|[{_SIGNS}])*")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_RUN = re.compile(rf"[{_UNSPACED}]+")
_POSSESSIVE = re.compile(r"(?<=\w)['’]s\b")
_LATIN_MARKS = re.compile(r"[\u0300-\u036f]")

_stemmer = snowballstemmer.stemmer("english")
_stemmer_lock = threading.Lock()  # it keeps the word it works on in itself
_remembered: dict[str, str] = {}


def words(text: str) -> list[str]:
    """Every word and number of `text`, folded, in order."""
    result: list[str] = []
    for match in _WORD.findall(_folded(text)):
        if len(match) > MAX_WORD_CHARS and match.isascii():
            continue
        if match.isascii():
            result.append(_number(match) if match[0].isdigit() else match)
        else:
            result.extend(_parts(match))
    return result


def stems(text: str) -> list[str]:
    """The stems of the content words of `text`, in order, repeated as they are there."""
    return [stem(word) for word in words(text) if word not in STOP_WORDS]


def stem(word: str) -> str:
    """The stem of one folded word."""
    found = _remembered.get(word)
    if found is None:
        with _stemmer_lock:
            found = str(_stemmer.stemWord(word)) if word.isascii() else word
        if len(_remembered) >= STEMS_REMEMBERED:
            _remembered.clear()
        _remembered[word] = found
    return found


def _folded(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFC", _LATIN_MARKS.sub("", unicodedata.normalize("NFKD", text)))
    return _POSSESSIVE.sub("", text.casefold())


def _number(match: str) -> str:
    return match.replace(",", "") if "," in match and _THOUSANDS.fullmatch(match) else match


def _parts(match: str) -> list[str]:
    """A word that holds other than ASCII characters: runs of an unspaced script become overlapping pairs."""
    result: list[str] = []
    end = 0
    for run in _RUN.finditer(match):
        if run.start() > end:
            result.append(match[end : run.start()])
        text = run[0]
        result.extend([text] if len(text) == 1 else [text[at : at + 2] for at in range(len(text) - 1)])
        end = run.end()
    if end < len(match):
        result.append(match[end:])
    return [part[:MAX_WORD_CHARS] for part in result]
