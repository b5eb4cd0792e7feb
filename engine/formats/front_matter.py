"""Front matter: the YAML between two lines of `---` with which a Markdown file may begin.

YAML is read without its power: no objects, and no references, which can make a small text huge. Dates become ISO text,
so that what is read is what JSON holds. What cannot be read as a mapping is no front matter but text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import yaml

from engine.errors import Invalid

MAX_CHARS = 8 << 20
_FENCED = re.compile(r"\A---[ \t]*\r?\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: type[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def split(text: str, called: str) -> tuple[dict[str, Any], str]:
    """The fields of the front matter, and the text behind it as it stands.

    Raises:
        Invalid: there is front matter, and it is no YAML.
    """
    found = _FENCED.match(text)
    if found is None or len(found[1]) > MAX_CHARS:
        return {}, text
    fields = _loaded(found[1], called)
    return (fields, text[found.end() :]) if fields is not None else ({}, text)


def join(fields: Mapping[str, Any], body: str) -> str:
    """A file with front matter, which `split` takes apart again."""
    told = yaml.dump(dict(fields), Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=10_000)
    return f"---\n{told}---\n{body}"


def _loaded(text: str, called: str) -> dict[str, Any] | None:
    try:
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            raise Invalid(f"the front matter of {called} has references (* and &): write out what they stand for")
        held = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise Invalid(f"the front matter of {called} is not YAML: {problem}") from error
    if held is None:
        return {}
    return {str(name): _plain(value) for name, value in held.items()} if isinstance(held, dict) else None


def _plain(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
