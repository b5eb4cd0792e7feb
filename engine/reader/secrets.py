"""Likely secrets are refused: a memory is shared by every assistant on the machine, and a key has no place there.

Rules are shapes that issuers publish, assignments of values that no placeholder explains, and card numbers that pass
their own check digit. They err towards letting text through: an id, a digest, a telephone number or a sentence about
passwords is none. A refusal says which sort, where, and how to store the text without it; never the secret itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from engine.errors import Invalid
from engine.operations import Remember
from engine.reader.secret_values import is_card_number, is_code, is_filled_in, is_random, is_secret_value


class Secret(NamedTuple):
    """What sort of secret a text seems to hold, and where (half-open)."""

    name: str
    start: int
    end: int


class Shape(NamedTuple):
    """A token that its issuer gave a recognisable shape; `random`: only where it also looks drawn at random."""

    name: str
    hint: str  # a part of the text without which the pattern cannot match: searched first, because that is fast
    pattern: re.Pattern[str]
    random: bool = False


def _shape(name: str, hint: str, pattern: str, *, random: bool = False) -> Shape:
    return Shape(name, hint, re.compile(r"(?<![A-Za-z0-9_])(?:" + pattern + ")"), random)


SHAPES = (
    _shape(
        "private key",
        "PRIVATE KEY",
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[\s\S]{0,400}?[A-Za-z0-9+/=]{24}|\s+[A-Za-z0-9+/=]{6}[\s\S]{0,4000}?-----END)",
    ),
    _shape("PuTTY private key", "PuTTY-User-Key-File", r"PuTTY-User-Key-File-\d: [\s\S]{0,2000}?Private-Lines: \d"),
    _shape("age secret key", "AGE-SECRET-KEY-", r"AGE-SECRET-KEY-1[0-9A-Z]{40,}"),
    _shape("AWS access key", "AKIA", r"AKIA[0-9A-Z]{16}(?![0-9A-Za-z])"),
    _shape("AWS access key", "ASIA", r"ASIA[0-9A-Z]{16}(?![0-9A-Za-z])"),
    _shape("Google API key", "AIza", r"AIza[0-9A-Za-z_-]{35}"),
    _shape("Google OAuth token", "ya29.", r"ya29\.[0-9A-Za-z_-]{20,}"),
    _shape("Google client secret", "GOCSPX-", r"GOCSPX-[0-9A-Za-z_-]{20,}"),
    _shape("Azure storage key", "AccountKey=", r"AccountKey=[A-Za-z0-9+/]{40,}={0,2}"),
    _shape("Azure shared access key", "SharedAccessKey=", r"SharedAccessKey=[A-Za-z0-9+/]{40,}={0,2}"),
    _shape("Azure client secret", "Q~", r"[A-Za-z0-9_~.-]{3}\dQ~[A-Za-z0-9_~.-]{31,34}"),
    _shape("Azure signed URL", "sig=", r"(?:sig)=[A-Za-z0-9%+/]{40,}"),
    _shape("GitHub token", "gh", r"gh[pousr]_[A-Za-z0-9]{30,}"),
    _shape("GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9_]{22,}"),
    _shape("GitLab token", "glpat-", r"glpat-[A-Za-z0-9_-]{20,}"),
    _shape("GitLab token", "gl", r"gl(?:ptt|dt|rt|cbt|soat|ft)-[A-Za-z0-9_-]{20,}", random=True),
    _shape("Slack token", "xox", r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    _shape("Slack token", "xapp-", r"xapp-\d-[A-Za-z0-9-]{10,}"),
    _shape("Slack webhook", "hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9/_-]{20,}"),
    _shape("Stripe key", "k_", r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    _shape("Stripe webhook secret", "whsec_", r"whsec_[A-Za-z0-9+/]{20,}"),
    _shape("Anthropic key", "sk-ant-", r"sk-ant-[A-Za-z0-9_-]{16,}"),
    _shape("OpenAI key", "sk-", r"sk-(?:proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_-]{20,}", random=True),
    _shape("Hugging Face token", "hf_", r"hf_[A-Za-z0-9]{30,}"),
    _shape("npm token", "npm_", r"npm_[A-Za-z0-9]{36}"),
    _shape("PyPI token", "pypi-", r"pypi-[A-Za-z0-9_-]{50,}"),
    _shape("Twilio key", "SK", r"SK[0-9a-f]{32}(?![0-9a-zA-Z])"),
    _shape("SendGrid key", "SG.", r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    _shape("Mailgun key", "key-", r"key-[0-9a-f]{32}(?![0-9a-zA-Z])"),
    _shape("DigitalOcean token", "do", r"do[opr]_v1_[0-9a-f]{64}"),
    _shape("Databricks token", "dapi", r"dapi[0-9a-f]{32}(?![0-9a-zA-Z])"),
    _shape("Shopify token", "shp", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    _shape("Telegram bot token", ":AA", r"\d{8,10}:AA[A-Za-z0-9_-]{32,35}"),
    _shape("JSON web token", "eyJ", r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    _shape("bearer token", "earer ", r"[Bb]earer [A-Za-z0-9_.~+/=-]{20,}", random=True),
)

_KEY_WORDS = re.compile(
    r"passw|passphrase|pwd|\bpw\b|secret|api[_ -]?key|token|access[_-]?key|account[_-]?key", re.IGNORECASE
)
_ASSIGNMENT = re.compile(
    r"""(?<![A-Za-z0-9])(?P<key>(?:[A-Za-z0-9]{1,40}[_.-]){0,6}?(?:password|passwd|passphrase|passcode|pwd|secret|
    (?:client|app|shared|webhook)[_-]?secret|secret[_-]?(?:access[_-]?)?key|api[_ -]?key|apikey|access[_-]?key|
    private[_-]?key|account[_-]?key|encryption[_-]?key|(?:auth|access|refresh|api|bearer|bot|secret)[_-]?token|token)
    (?:[_-](?:id|value|prod|production|dev|staging|test|live|\d{1,3})){0,2}|(?<![\w-])pw(?=\s?[:=]))
    (?:\s(?:for|of|to|on|at)\s[^\s:=;,]{1,40}(?:\s[^\s:=;,]{1,40}){0,3}?)?
    ["'`]?\s{0,3}(?P<sign>:=|=>|==?|:|\sis:?\s)\s{0,3}(?:["'`](?P<quoted>[^"'`\n]{1,500})["'`]|(?P<plain>[^\s"'`<>]{1,500}))""",
    re.IGNORECASE | re.VERBOSE,
)
_CONNECTION = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@?#\"'<>]{0,200}:(?P<password>[^\s@/\"'<>]{1,200})@[^\s@/]"
)
_CARD = re.compile(r"(?<![\w.+/-])(?<!\d )\d(?:[ -]?\d){13,18}(?![\w]|[ -]\d|\.\d)")


def find_secrets(text: str) -> Iterator[Secret]:
    """The likely secrets in `text`, rule by rule."""
    for shape in SHAPES:
        if shape.hint in text:
            for match in shape.pattern.finditer(text):
                if is_random(match[0]) if shape.random else is_filled_in(match[0]):
                    yield Secret(shape.name, match.start(), match.end())
    if "://" in text:
        for match in _CONNECTION.finditer(text):
            if is_secret_value(match["password"], "password", quoted=True):
                yield Secret("connection string with a password", match.start("password"), match.end("password"))
    if _KEY_WORDS.search(text):
        yield from _assigned(text)
    for match in _CARD.finditer(text):
        if is_card_number(match[0]):
            yield Secret("card number", match.start(), match.end())


def _assigned(text: str) -> Iterator[Secret]:
    for match in _ASSIGNMENT.finditer(text):
        group = "quoted" if match["quoted"] is not None else "plain"
        key = {"pw": "password"}.get(match["key"].lower(), match["key"].lower())
        if group == "plain" and is_code(match["plain"]):
            continue
        said = match["sign"].strip().lower().startswith("is")
        if is_secret_value(match[group], key, quoted=group == "quoted" or match["sign"][-1] in "=>", said=said):
            name = "password" if "pass" in key or "pwd" in key else "key or token"
            yield Secret(name, match.start(group), match.end(group))


def refuse_secrets(request: Remember) -> None:
    """Refuse a request that seems to hold a secret, wherever it holds it.

    Raises:
        Invalid: what sort of secret, and where; never the secret.
    """
    places: list[tuple[str, str]] = []
    if request.content is not None:
        places.append(("content", request.content))
    for number, turn in enumerate(request.messages):
        places.append((f"turn {number + 1} (messages[{number}].content)", turn.content))
        if turn.name is not None:
            places.append((f"messages[{number}].name", turn.name))
    places += [(f"tags[{number}]", tag) for number, tag in enumerate(request.tags)]
    if request.source is not None:
        places.append(("source", request.source))
    for where, text in places:
        secret = next(find_secrets(text), None)
        if secret is not None:
            raise Invalid(
                f"{where} seems to hold a secret: {secret.name}, characters {secret.start}–{secret.end}. Nothing was "
                f"stored. Replace it by [redacted: {secret.name}], say where it is kept instead, and send it again"
            )
