"""From JSON to the engine's values: what a client sent is parsed once, here, and trusted after.

Every refusal is `Invalid` (or `TooLarge`) with one line that names the argument, the rule and what to do; it never
repeats more of the input than a few printable characters. This module knows no tool, no protocol and no transport.

What stays true: text that passes holds no NUL, no control character and no lone surrogate, every instant is aware and
in UTC, and an argument that is not known is an error and not silence. An explicit null means the same as absence,
because many clients fill optional arguments with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from engine.cube_operations import MAX_DESCRIPTION_CHARS, MAX_LICENCE_CHARS, MAX_SNAPSHOT_NAME_CHARS
from engine.errors import Invalid, TooLarge
from engine.operations import (
    MAX_CONTENT_CHARS,
    MAX_CUBE_NAME_CHARS,
    MAX_IDS,
    MAX_QUERY_CHARS,
    MAX_REASON_CHARS,
    MAX_SOURCE_CHARS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TURN_CHARS,
)

MAX_ID_CHARS = 64
MAX_NAME_CHARS = 256  # speaker and role names
MAX_CONFIRM_CHARS = 512
MAX_PATH_CHARS = 4_096
MAX_PRINCIPAL_CHARS = 64
MAX_DAYS = 36_525.0  # a hundred years: later than that is never
FIRST_YEAR, LAST_YEAR = 10, 9900  # room on both sides for "last year" and "in a century"
EVERY_CUBE = "*"
SHOWN_CHARS = 40  # of a wrong value, in a message

NOT_IN_PROSE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # all but tab and line breaks
NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")

ModelT = TypeVar("ModelT", bound=BaseModel)


class Arguments(BaseModel):
    """Base of what tools and control requests take: strict types, no unknown names, nothing that changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def parse(model: type[ModelT], arguments: Mapping[str, Any]) -> ModelT:
    """`arguments` as a `model`.

    Raises:
        Invalid: it breaks a rule of the model; the message names the argument and the remedy.
        TooLarge: a bound was passed.
    """
    present = {name: _without_null_fields(value) for name, value in arguments.items() if value is not None}
    try:
        return model.model_validate(present)
    except ValidationError as error:
        detail = _worst(error.errors(include_url=False))
        message = _explain(model, detail)
        if detail["type"] in TOO_LARGE_TYPES:
            raise TooLarge(message) from None
        raise Invalid(message) from None


def shown(value: object) -> str:
    """A short printable form of something a client sent, safe in any message."""
    text = value if isinstance(value, str) else repr(value)
    kept = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:SHOWN_CHARS])
    return f"{kept}…" if len(text) > SHOWN_CHARS else kept


def encodable(text: str) -> str:
    """`text` with lone surrogates replaced: what leaves this process must be UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def first_complaint(error: ValidationError) -> str:
    """What is wrong with a request as a whole, in one line."""
    detail = _worst(error.errors(include_url=False))
    return f"'{_spell(detail['loc'])}' {_complaint(detail['type'], detail.get('ctx', {}), detail)}"


# --- the types that arguments are made of -----------------------------------------------------------------------


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("memos", "{message}", {"message": message})


def _without(pattern: re.Pattern[str], text: str, if_empty: str) -> str:
    if found := pattern.search(text):
        raise _refuse(f"holds the control character U+{ord(found[0]):04X} at position {found.start()}: remove it")
    if not text.strip():
        raise _refuse(if_empty)
    return text


def _prose(text: str) -> str:
    return _without(NOT_IN_PROSE, text, "is empty: send some text")


def _line(text: str) -> str:
    return _without(NOT_IN_A_LINE, text, "is empty: send some text, or leave it out").strip()


def _path(text: str) -> str:
    """A blank at an end belongs to a path."""
    return _without(NOT_IN_A_LINE, text, "is empty: name a file")


def _id(text: str) -> str:
    if not ID.match(text):
        raise _refuse(f"is {shown(text)!r}, which is no id: use ids as remember and recall return them")
    return text


def _cube_name(text: str) -> str:
    if not is_cube_name(text):
        raise _refuse(
            f"is {shown(text)!r}: a cube's name has printable characters, no '/', no outer blanks and is not '*'"
        )
    return text


def is_cube_name(text: str) -> bool:
    """Whether a cube may have this name. `*` stands for every cube where access is granted, so it names none."""
    return (
        0 < len(text) <= MAX_CUBE_NAME_CHARS
        and text.isprintable()
        and text == text.strip()
        and "/" not in text
        and text != EVERY_CUBE
    )


def instant(value: object) -> datetime:
    """An ISO 8601 date or datetime as an instant in UTC; without an offset it is taken as UTC.

    Raises:
        PydanticCustomError: a ValueError; the message says what is expected.
    """
    if not isinstance(value, str):
        raise _refuse(f"must be a string with an ISO 8601 date or datetime, not {_json_type(value)}")
    try:
        parsed = datetime.fromisoformat(value.strip())
        parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError):
        raise _refuse(f"is {shown(value)!r}: use an ISO 8601 date or datetime such as 2026-05-17T14:30:00Z") from None
    if not FIRST_YEAR <= parsed.year <= LAST_YEAR:
        raise _refuse(f"is {shown(value)!r}: the year must be from {FIRST_YEAR} to {LAST_YEAR}")
    return parsed


def _integral(value: object) -> object:
    """8.0 is a whole number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Content = Annotated[str, Field(max_length=MAX_CONTENT_CHARS), AfterValidator(_prose)]
TurnContent = Annotated[str, Field(max_length=MAX_TURN_CHARS), AfterValidator(_prose)]
Query = Annotated[str, Field(max_length=MAX_QUERY_CHARS), AfterValidator(_prose)]
Reason = Annotated[str, Field(max_length=MAX_REASON_CHARS), AfterValidator(_prose)]
Source = Annotated[str, Field(max_length=MAX_SOURCE_CHARS), AfterValidator(_line)]
Name = Annotated[str, Field(max_length=MAX_NAME_CHARS), AfterValidator(_line)]
Tag = Annotated[str, Field(max_length=MAX_TAG_CHARS), AfterValidator(_line)]
Tags = Annotated[list[Tag], Field(max_length=MAX_TAGS)]
CubeName = Annotated[str, Field(max_length=MAX_CUBE_NAME_CHARS), AfterValidator(_cube_name)]
MemoryId = Annotated[str, Field(max_length=MAX_ID_CHARS), AfterValidator(_id)]
MemoryIds = Annotated[list[MemoryId], Field(min_length=1, max_length=MAX_IDS)]
Confirm = Annotated[str, Field(max_length=MAX_CONFIRM_CHARS), AfterValidator(_line)]
Description = Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARS), AfterValidator(_prose)]
Licence = Annotated[str, Field(max_length=MAX_LICENCE_CHARS), AfterValidator(_line)]
SnapshotName = Annotated[str, Field(max_length=MAX_SNAPSHOT_NAME_CHARS), AfterValidator(_line)]
PrincipalName = Annotated[str, Field(max_length=MAX_PRINCIPAL_CHARS), AfterValidator(_line)]
PathText = Annotated[str, Field(max_length=MAX_PATH_CHARS), AfterValidator(_path)]
SensitivityName = Literal["normal", "personal", "secret"]
ScopeName = Literal["private", "shared", "public"]
ActionName = Literal["read", "write", "share", "admin"]
Whole = Annotated[int, BeforeValidator(_integral)]
Instant = Annotated[datetime, BeforeValidator(instant)]


def unique(values: Iterable[str]) -> tuple[str, ...]:
    """`values` in order, each once."""
    return tuple(dict.fromkeys(values))


# --- refusals in plain words ------------------------------------------------------------------------------------

TOO_LARGE_TYPES = frozenset({"string_too_long", "too_long"})
# An unknown name is told first: it is often the cause of what else is missing.
TOLD_FIRST = ("extra_forbidden", "missing")
MUST_BE = {
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "an array",
    "model_type": "an object",
    "dict_type": "an object",
}


def _without_null_fields(value: Any) -> Any:
    """Null fields of the objects in an array are absent too."""
    if isinstance(value, list):
        return [
            {name: field for name, field in item.items() if field is not None} if isinstance(item, dict) else item
            for item in value
        ]
    return value


def _worst(details: list[ErrorDetails]) -> ErrorDetails:
    order = {name: rank for rank, name in enumerate(TOLD_FIRST)}
    return min(details, key=lambda detail: order.get(detail["type"], len(order)))


def _explain(model: type[BaseModel], detail: ErrorDetails) -> str:
    path, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        known = ", ".join(_fields_at(model, path[:-1]))
        return f"unknown argument '{_spell(path)}': use only {known}"
    if not path:
        return str(context.get("message") or detail["msg"])
    return f"'{_spell(path)}' {_complaint(kind, context, detail)}"


def _complaint(kind: str, context: Mapping[str, Any], detail: ErrorDetails) -> str:
    if kind == "memos":
        return str(context["message"])
    if kind == "missing":
        return "is required"
    if kind == "string_unicode":
        return "holds a lone surrogate, which is no character: remove it"
    if kind == "finite_number":
        return "must be a finite number"
    if kind in MUST_BE:
        return f"must be {MUST_BE[kind]}, not {_json_type(detail['input'])}"
    if kind == "literal_error":
        choices = str(context["expected"]).replace("'", "").replace(" or ", ", ")
        return f"must be one of {choices}, not {shown(detail['input'])!r}"
    if kind == "string_too_long":
        return f"has {len(detail['input']):,} characters; at most {context['max_length']:,} fit: shorten or split it"
    if kind == "too_long":
        return f"has {context['actual_length']:,} entries; at most {context['max_length']:,} fit: send it in parts"
    if kind == "too_short":
        return f"has too few entries: at least {context['min_length']}"
    bounds = {"greater_than": "more than", "greater_than_equal": "at least", "less_than_equal": "at most"}
    if kind in bounds:
        limit = context.get("gt", context.get("ge", context.get("le")))
        return f"must be {bounds[kind]} {limit:,.10g}"
    return detail["msg"][:1].lower() + detail["msg"][1:]


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The names that are allowed where `path` points to: the model's own, or those of the objects in one array."""
    if path and isinstance(path[0], str):
        for argument in _models_in(model.model_fields[path[0]].annotation):
            return list(argument.model_fields)
    return list(model.model_fields)


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)


def _spell(path: tuple[int | str, ...]) -> str:
    spelled = ""
    for step in path:
        spelled += f"[{step}]" if isinstance(step, int) else f".{shown(step)}" if spelled else shown(step)
    return spelled


def _json_type(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return shown(value)
    names: dict[type, str] = {str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), "this")
