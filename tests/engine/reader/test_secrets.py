"""Likely secrets are refused, what only resembles one is not. Every secret here is made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import Invalid
from engine.operations import Remember, Turn
from engine.reader.secrets import find_secrets, refuse_secrets


def names(text: str) -> set[str]:
    return {secret.name for secret in find_secrets(text)}


# Joined from parts, so that this file itself holds no token of a known shape.
HEX = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
MIXED = "abcDEF123456ghiJKL7890mnoPQRstUVwx"
SECRETS = [
    ("AWS access key", "AKIA" + "IOSFODNN7EXAMPLE"),
    ("key or token", "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ("GitHub token", "ghp_" + "a1B2" * 9),
    ("GitHub token", "github_pat_" + "11ABCDEFG0" * 4),
    ("GitLab token", "glpat-" + "abcdefghij1234567890"),
    ("Slack token", "xoxb-" + "123456789012-abcdefghij"),
    ("Slack webhook", "https://hooks.slack.com/services/" + "T00000000/B00000000/abcdefghijklmnopqrst"),
    ("Stripe key", "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"),
    ("OpenAI key", "sk-proj-" + MIXED),
    ("OpenAI key", "sk-" + MIXED),
    ("Anthropic key", "sk-ant-api03-" + MIXED),
    ("Hugging Face token", "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH"),
    ("npm token", "npm_" + "abcdefghijklmnopqrstuvwxyz0123456789"),
    ("PyPI token", "pypi-AgEIcHlwaS5vcmc" + MIXED * 2),
    ("Twilio key", "SK" + HEX),
    ("SendGrid key", "SG." + "abcdefghijklmnopqrstuv." + MIXED),
    ("Google API key", "AIza" + "SyA1234567890abcdefghijklmnopqrstuv"),
    ("Google client secret", "GOCSPX-" + "abcdefghijklmnopqrstuvwxyz12"),
    ("Azure storage key", "AccountKey=" + MIXED * 2 + "=="),
    ("JSON web token", "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N"),
    ("bearer token", "Authorization: Bearer " + MIXED),
    ("private key", "-----BEGIN RSA PRIVATE KEY-----\n" + MIXED * 2 + "\n-----END RSA PRIVATE KEY-----"),
    ("private key", "-----BEGIN OPENSSH PRIVATE KEY-----\\n" + MIXED * 2),
    ("private key", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n" + MIXED * 2),
    ("age secret key", "AGE-SECRET-KEY-1" + "QL3Z7HJY54PW3HYWW5AYYFG7ZQGVC7W3J2ELW8ZMRJ2KG5SFN9AQMCAC8P"),
    ("password", "password: Tr0ub4dor&3"),
    ("password", "my password is hunter2"),
    ("password", "My password for GitHub is hunter2!xY7"),
    ("password", "The root password of db-prod-2 is 'q8Zk!29x'"),
    ("password", "pw: abc12345"),
    ("private key", "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIB\n-----END RSA PRIVATE KEY-----"),
    ("password", "The wifi password is Sunshine42!"),
    ("password", "DB_PASSWORD=swordfish"),
    ("password", "PASSWORD: hunter2"),
    ("password", "the admin password is 'letmein123'"),
    ("password", "export MYSQL_PWD=Pa55w0rd!x"),
    ("key or token", "api_key=" + "abcd1234efgh5678"),
    ("key or token", "API key: " + HEX),
    ("key or token", '"client_secret": "' + 'a8F3kd93LLs02Xz"'),
    ("connection string with a password", "postgres://admin:s3cretpw@db.example.com:5432/x"),
    ("connection string with a password", "redis://:p4ssw0rd@localhost:6379"),
    ("card number", "card 4111 1111 1111 1111, exp 12/29"),
    ("card number", "5555555555554444"),
    ("card number", "3782-822463-10005"),
    ("card number", "6011111111111117"),
]

HARMLESS = [
    *("550e8400-e29b-41d4-a716-446655440000", "commit 1c31ac1d5f0b2a3c4d5e6f708192a3b4c5d6e7f8", "sha256:" + HEX * 2),
    *("call +49 170 1234567", "ISBN 978-3-16-148410-0", "order 1234567890123456", "tracking 4111111111111112"),
    *("timestamp 1710000000000", "4111 people", "version 4.1.1.1", "IBAN DE89 3704 0044 0532 0130 00", "0" * 16),
    *("the password is stored in the vault", "password is required", "password: forgotten", "password: ********"),
    *("the password is at least 12 characters", "we changed the password yesterday", "password manager is Bitwarden"),
    *(
        "password reset: done",
        "My password is my dog's name",
        "The password for the vault is stored in 1Password.",
        "The password for the wifi is on the fridge",
        "-----BEGIN PRIVATE KEY----- marks a key, and -----END PRIVATE KEY----- its end",
        "password is the same as before",
        "password: [redacted: x]",
    ),
    *("the token limit is 200000", "max_tokens: 2000", "token: string", "token count: 1234567", "token = get_token()"),
    *("API_KEY=${API_KEY}", "api_key=os.environ['KEY']", "api_key: str = Field(...)", "password=<your password>"),
    *("secret=None", "The secret of the soup is thyme", "Secret Santa is on 2024-12-20", "the secret is patience"),
    *("PASSWORD_FILE=/run/secrets/db", "password = request.form['password']", 'password="testpassword"'),
    *("The file starts with -----BEGIN PRIVATE KEY-----", "-----BEGIN PUBLIC KEY-----\n" + MIXED * 2),
    *(
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAUA" + "AAAF" * 40,
        "https://user@example.com/",
        "me@example.com",
    ),
    *("sk-learn is-a-library-for-machine-learning-with-python", "ghp_" + "x" * 36, "xoxb-your-slack-token-here"),
    *("ssh://git@github.com:22/x", "http://localhost:8080/@user", "postgres://user:<password>@host/db"),
    *("postgres://user:${DB_PASSWORD}@host/db", "the access token expires 2026-03-01", "api key: stored in 1Password"),
]


@pytest.mark.parametrize(("name", "text"), SECRETS)
def test_a_likely_secret_is_found_and_named(name: str, text: str) -> None:
    assert name in names(text)
    assert name in names(f"Please remember this: {text} thanks")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_a_secret_is_none(text: str) -> None:
    assert names(text) == set()
    assert names(f"Please remember this: {text} thanks") == set()


def test_a_refusal_says_what_and_where_and_how_to_store_it_but_never_the_secret() -> None:
    token = "ghp_" + "a1B2" * 9
    with pytest.raises(Invalid) as refusal:
        refuse_secrets(Remember(messages=(Turn("user", "hello"), Turn("user", f"use {token} now"))))
    message = str(refusal.value)
    assert "turn 2 (messages[1].content)" in message
    assert "GitHub token, characters 4–44" in message
    assert "[redacted: GitHub token]" in message
    assert token not in message
    assert "a1B2" not in message


@pytest.mark.parametrize(
    ("request_", "where"),
    [
        (Remember(content="fine", source="https://me:hunter22@example.com/x"), "source"),
        (Remember(content="fine", tags=("ok", "AKIA" + "IOSFODNN7EXAMPLE")), "tags[1]"),
        (Remember(messages=(Turn("user", "fine", name="AKIA" + "IOSFODNN7EXAMPLE"),)), "messages[0].name"),
        (Remember(content="x" * 5_000 + " AKIA" + "IOSFODNN7EXAMPLE"), "characters 5001–5021"),
    ],
)
def test_a_secret_is_refused_wherever_it_stands(request_: Remember, where: str) -> None:
    with pytest.raises(Invalid, match="seems to hold a secret") as refusal:
        refuse_secrets(request_)
    assert where in str(refusal.value)


@pytest.mark.parametrize(("name", "text"), SECRETS)
def test_the_redacted_form_is_accepted(name: str, text: str) -> None:
    for secret in sorted(find_secrets(text), key=lambda found: found.start, reverse=True):
        text = text[: secret.start] + f"[redacted: {secret.name}]" + text[secret.end :]
    refuse_secrets(Remember(content=text))


@given(st.text(alphabet="0123456789abcdef", min_size=8, max_size=64))
def test_digests_and_ids_in_hexadecimal_are_no_secrets_without_a_word_that_says_so(digits: str) -> None:
    assert names(f"commit {digits}") <= {"card number"}
    assert names(f"object a{digits}") == set()


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "unit",
    [
        "token=",
        "token: ",
        "a.",
        "a_",
        "password",
        "password_",
        "://",
        "a://b:",
        "1 ",
        "1-",
        "4111 ",
        "sk-",
        "gh",
        "eyJa",
        "secret-",
        "-----BEGIN PRIVATE KEY-----",
        "x.eyJ",
        "key is ",
        "SG.aaaaaaaaaaaaaaaaaa.",
        "api key\n",
        "AIza",
        '"',
    ],
)
def test_hostile_texts_are_searched_in_linear_time(unit: str) -> None:
    assert len(list(find_secrets(unit * (100_000 // len(unit))))) < 100_000
