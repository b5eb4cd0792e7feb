"""Whether a value looks like a secret: drawn at random, no placeholder, a card number that checks."""

from __future__ import annotations

import math
import re
from collections import Counter

from engine.text.tables import word_set

MIN_SECRET_CHARS = 6
MIN_SAID_CHARS = 7  # "the password is …" is ordinary speech: it takes more to be sure
MIN_BITS_A_CHARACTER = 3.0  # random letters and digits have 4 to 6, words and repetitions less
MIN_TOKEN_CHARS = 12
MIN_QUOTED_TOKEN_CHARS = 8

_PLACEHOLDER = re.compile(
    r"""\[|<|\{|\$|%|\*{2,}|\.{3}|…|x{3,}|X{3,}|•|\#|\(|@|-{2,}|_{2,}
    |(?:os|process|config|settings|self|args|secrets?|vault)\.
    |(?:your|my|some|the|an?|new|old|example|sample|dummy|fake|test|change|changeme|insert|enter|replace|redacted|
        placeholder|todo|tbd|foo|bar|env|getenv|keyring|none|null|nil|undefined|true|false|required|optional|string|
        str|int|bool|bytes|text|varchar|hidden|removed|missing|incorrect|invalid|wrong|correct|expired|reset|forgotten|
        stored|kept|saved|see|in|at)(?![A-Za-z0-9])""",
    re.VERBOSE | re.IGNORECASE,
)
_NO_SECRET = re.compile(
    r"""~?/[\w./-]*|\.{1,2}/.*|[a-zA-Z]:\\.*|https?://.*           # where it is kept
    |\d{4}-\d\d-\d\d.*|\d{1,2}[/.:]\d{1,2}.*|v?\d+(?:\.\d+)+       # dates, times, versions
    |[\w.]+\([^)]*\)?.*|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+              # calls, names of variables
    |[a-z]+(?:[_.-][a-z]+)+ """,
    re.VERBOSE,
)
_CODE = re.compile(r"[A-Za-z_][\w.]*[\[(].*|[a-z_]+(?:\.[a-z_]+)+")  # `request.form[`, `settings.db.password`
_NAMES_ITSELF = re.compile(
    r"[A-Za-z_]*(?:pass|pwd|secret|token|key|test|example|user|value|hash|input|field)[A-Za-z_]*"
)
_EXAMPLE = re.compile(r"(?:[a-z]{2,10}_?)?pass(?:word)?_?\d{0,4}")  # test_password123: in every tutorial
_HASH = re.compile(r"(?:pbkdf2|scrypt|argon2|bcrypt|sha\d|md5|\{ssha)", re.IGNORECASE)
_FILLED = re.compile(r"[xX*.•_-]+|.*(?:[xX]{8}|\*{4}|\.{3}|your|YOUR|example-|placeholder).*")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_COMMON = word_set(
    "bearer basic string required optional password secret token hidden unknown empty default manager managers "
    "rotation policy policies protected expired invalid limits count usage budget authentication value values"
)


def is_random(token: str) -> bool:
    """Whether letters and digits are mixed as chance does, and words do not."""
    body = re.sub(r"^[A-Za-z]+[ _-]", "", token)
    if len(body) < MIN_TOKEN_CHARS or not re.search(r"\d", body) or not re.search(r"[A-Za-z]", body):
        return False
    if all((part.isalpha() and part.islower()) or part.isdecimal() for part in re.split(r"[-_./]", body) if part):
        return False
    return _bits_a_character(body) >= MIN_BITS_A_CHARACTER


def is_code(value: str) -> bool:
    """Whether what stands there without quotes is an expression of a program: `request.form[`, `settings.password`."""
    return bool(_CODE.fullmatch(value))


def is_filled_in(token: str) -> bool:
    """Whether a token is one, and not the shape of one in a manual: `ghp_xxxxxxxx`, `xoxb-your-token`."""
    return not _FILLED.fullmatch(re.sub(r"^[A-Za-z]+[_-]", "", token))


def _bits_a_character(text: str) -> float:
    """Shannon entropy of the characters of `text`."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def is_secret_value(value: str, key: str, *, quoted: bool, said: bool = False) -> bool:
    """Whether what is assigned to `key` is a secret itself, not a placeholder, a type, a place or a word about it.

    `quoted`: in quotes or after `=`, as programs and settings write. `said`: after "is", as people do.
    """
    value = value.strip().rstrip(".,;:!?)]}\"'")
    if len(value) < (MIN_SAID_CHARS if said else MIN_SECRET_CHARS):
        return False
    if _PLACEHOLDER.match(value) or _NO_SECRET.fullmatch(value) or value.lower() in _COMMON:
        return False
    if " " in value:
        return False
    if _NAMES_ITSELF.fullmatch(value) or _EXAMPLE.fullmatch(value) or _HASH.match(value):
        return False
    has_letter, has_digit = bool(re.search(r"[^\W\d_]", value)), bool(re.search(r"\d", value))
    has_sign = bool(re.search(r"[^\w\s]", value))
    is_password = "pass" in key or "pwd" in key
    if is_password:
        if not has_letter:
            return (has_digit and not has_sign) or (has_sign and quoted)
        if said or not quoted:
            return has_digit or (has_sign and not _is_hyphenated(value)) or _is_mixed(value)
        return True
    if _UUID.fullmatch(value):
        return quoted
    if not has_letter or not has_digit:
        return quoted and len(value) >= 2 * MIN_TOKEN_CHARS and _is_mixed(value)
    if len(value) >= MIN_TOKEN_CHARS:
        return _bits_a_character(value) >= MIN_BITS_A_CHARACTER
    return quoted and len(value) >= MIN_QUOTED_TOKEN_CHARS


def _is_hyphenated(value: str) -> bool:
    return all(part.isalpha() for part in re.split(r"[-/'’]", value))


def _is_mixed(value: str) -> bool:
    """Capitals inside: `hunterGate`, but not `Hunter`."""
    return bool(re.search(r"[a-z]", value)) and bool(re.search(r"[A-Z]", value[1:])) and not value.isupper()


_RANGES = (
    (16, "4", "4"),  # Visa; older lengths are too like other numbers
    (16, "51", "55"),  # Mastercard
    (16, "2221", "2720"),
    (15, "34", "34"),  # American Express
    (15, "37", "37"),
    (16, "6011", "6011"),  # Discover
    (16, "644", "659"),
    (16, "3528", "3589"),  # JCB
    (14, "300", "305"),  # Diners Club
    (14, "36", "36"),
    (14, "38", "39"),
    (16, "620", "629"),  # UnionPay
    (19, "620", "629"),
)
"""Number of digits, and first and last issuer prefix."""

_GROUPINGS = {
    14: ((4, 6, 4),),
    15: ((4, 6, 5),),
    16: ((4, 4, 4, 4),),
    19: ((4, 4, 4, 4, 3), (6, 13)),
}


def is_card_number(text: str) -> bool:
    """Whether digits, in groups or not, are those of a payment card: length, issuer and check digit."""
    groups = re.split(r"[ -]", text)
    digits = "".join(groups)
    if not digits.isascii() or (len(groups) > 1 and tuple(map(len, groups)) not in _GROUPINGS.get(len(digits), ())):
        return False
    if len({char for char in text if not char.isdigit()}) > 1 or len(set(digits)) < 2:
        return False
    issued = any(len(digits) == length and first <= digits[: len(first)] <= last for length, first, last in _RANGES)
    return issued and _luhn(digits)


def _luhn(digits: str) -> bool:
    """The check digit of ISO/IEC 7812-1, annex B."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
