"""Names that a text holds, by rules that can be read: capitalised runs, @mentions, hosts of addresses.

A word that begins a sentence is capitalised anyway, so alone it counts only where a possessive or a verb in the third
person shows a name. The number is bounded: a long document does not become a list of names.
"""

from __future__ import annotations

import re

MAX_ENTITIES = 32
MAX_ENTITY_CHARS = 80
LOOKED_AT_CHARS = 20_000

_CANDIDATE = re.compile(
    r"""
      (?P<url>\b[a-z][a-z0-9+.-]{1,11}://(?P<host>[^\s/:?\#@]+(?:@[^\s/:?\#]+)?)\S*)
    | (?P<email>\b[\w.+-]+@(?P<domain>[\w-]+(?:\.[\w-]+)+))
    | (?<!\w)@(?P<handle>[A-Za-z_][\w-]{1,38})
    | (?P<run>(?:[^\W\d_a-zß-ÿ][\w’'-]*)(?:(?:[ ]|[ ](?:of|de|van|von|der|the|la)[ ])[^\W\d_a-zß-ÿ][\w’'-]*){0,5})
    """,
    re.VERBOSE,
)
_POSSESSIVE = re.compile(r"['’]s?$")
_SENTENCE_START = re.compile(r"(?:^|[.!?…:;\n\"“(*#>]|[-•]\s)\s*$")
_NAME_VERB = re.compile(r"\s(?:is|was|has|had|said|told|went|got|met|and\s[A-Z]|[a-z]{3,}(?:s|ed))\b(?!:)")
_COMMON = frozenset(
    word
    for line in (
        "a an the this that these those there here it he she they we you i my your his her its our their who what when",
        "where why how which if and or but so because although though while since after before as at by for from in of",
        "on to with without not no yes yeah ok okay please thanks thank hello hi hey dear all some any each every both",
        "many most more much few several one two three first second third next last then now today tomorrow yesterday",
        "also just only maybe perhaps still even let lets do does did don't is are was were be been have has had will",
        "would can could should may might must i'm i've i'll i'd it's that's he's she's we're they're you're monday",
        "tuesday wednesday thursday friday saturday sunday january february march april june july august september",
        "october november december everything everyone something someone nothing nobody user assistant system note",
        "oh well sure great good bad new old another other such",
    )
    for word in line.split()
)


def entities(text: str) -> tuple[str, ...]:
    """The names in `text`, in order of their first mention, each once."""
    found: dict[str, str] = {}
    for match in _CANDIDATE.finditer(text[:LOOKED_AT_CHARS]):
        name = _named(text, match)
        if name and len(name) <= MAX_ENTITY_CHARS:
            found.setdefault(name.lower(), name)
            if len(found) == MAX_ENTITIES:
                break
    return tuple(found.values())


def _named(text: str, match: re.Match[str]) -> str | None:
    if match["url"]:
        return match["host"].rpartition("@")[2].lower().removeprefix("www.")
    if match["email"]:
        return match["domain"].lower()
    if match["handle"]:
        return "@" + match["handle"]
    return _name_in_run(text, match)


def _name_in_run(text: str, match: re.Match[str]) -> str | None:
    """A capitalised run without the common words at its ends; None where only its place made it capital."""
    if match.start() and (text[match.start() - 1].isalnum() or text[match.start() - 1] in "_'’-"):
        return None
    words = match["run"].split(" ")
    starts = bool(_SENTENCE_START.search(text[max(0, match.start() - 4) : match.start()]))
    trimmed = False
    while words and words[0].lower() in _COMMON:
        words, trimmed = words[1:], True
    while words and words[-1].lower() in _COMMON:
        words = words[:-1]
    if not words:
        return None
    name = _POSSESSIVE.sub("", " ".join(words))
    if len(name) < 2:
        return None
    if starts and not trimmed and len(words) == 1:
        shown = _POSSESSIVE.search(words[0]) or name[1:] != name[1:].lower() or _NAME_VERB.match(text, match.end())
        return name if shown else None
    return name
