"""Signatures: whose bundle it is, and what each trust policy makes of it."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from cubes import UntrustedBundle, UnusableFile, WrongKey
from cubes.bundle import inspect, open_bundle
from cubes.signing import (
    Anyone,
    Known,
    PublicKey,
    Signature,
    Signed,
    SigningKey,
    Trust,
    create_signing_key,
    load_signing_key,
    verify,
)
from tests.cubes.bundles import TEST_KEY, rich_bundle
from tests.cubes.forging import put_together, taken_apart

KNOWN = {TEST_KEY.public: "ada"}


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return create_signing_key(tmp_path / "signing.pem")


def bundle_of(folder: Path, key: SigningKey | None) -> bytes:
    rich_bundle(folder / "x", signing_key=key)
    raw = (folder / "x").read_bytes()
    (folder / "x").unlink()
    return raw


def judged(raw: bytes, trust: Trust) -> Signature | None:
    return inspect(io.BytesIO(raw), trust=trust).signature


def test_a_key_is_kept_for_its_owner_alone_and_never_written_over(key: SigningKey, tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_signing_key(path).public == key.public
    with pytest.raises(UnusableFile, match="never written over"):
        create_signing_key(path)
    assert load_signing_key(path).public == key.public


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_can_read_is_refused(key: SigningKey, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "signing.pem"
    path.chmod(mode)
    with pytest.raises(UnusableFile, match="chmod 600"):
        load_signing_key(path)


def test_what_is_no_signing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(UnusableFile, match="cannot be read"):
        load_signing_key(path)
    other = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content, says in ((b"hello", "holds no signing key"), (other, "another kind"), (b"x" * 20_000, "too large")):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises((WrongKey, UnusableFile), match=says):
            load_signing_key(path)


def test_a_key_never_shows_its_secret(key: SigningKey, tmp_path: Path) -> None:
    secret = (tmp_path / "signing.pem").read_text().splitlines()[1]
    assert secret not in repr(key)
    assert repr(key) == "SigningKey()"


def test_a_public_key_has_a_text_form_and_a_fingerprint(key: SigningKey) -> None:
    text = str(key.public)
    assert text.startswith("memcube-ed25519:")
    assert PublicKey.parse(text) == key.public
    assert len(key.public.fingerprint) == 16
    for wrong in ("", text[:-2], text + "=", text.replace("memcube-", ""), "memcube-ed25519:é", "memcube-ed25519:AAAA"):
        with pytest.raises(WrongKey, match="public key has the form"):
            PublicKey.parse(wrong)


def test_the_same_manifest_has_the_same_signature(key: SigningKey) -> None:
    assert key.sign(b"manifest") == key.sign(b"manifest")
    assert verify(b"manifest", key.sign(b"manifest")) == key.public
    with pytest.raises(UntrustedBundle, match=key.public.fingerprint):
        verify(b"another", key.sign(b"manifest"))


@pytest.mark.parametrize("trust", [Anyone(KNOWN), Signed(KNOWN), Known(KNOWN)])
def test_a_known_key_is_accepted_by_its_name(trust: Trust, tmp_path: Path) -> None:
    signature = judged(bundle_of(tmp_path, TEST_KEY), trust)
    assert signature == Signature(TEST_KEY.public, "ada")
    assert signature.known


def test_an_unknown_key_is_refused_only_where_keys_must_be_known(key: SigningKey, tmp_path: Path) -> None:
    raw = bundle_of(tmp_path, key)
    for trust in (Anyone(KNOWN), Signed(KNOWN)):
        signature = judged(raw, trust)
        assert signature is not None
        assert (signature.key, signature.known) == (key.public, False)
    with pytest.raises(UntrustedBundle, match=f"unknown key {key.public.fingerprint}"):
        judged(raw, Known(KNOWN))


def test_an_unsigned_bundle_is_refused_where_signatures_are_asked_for(tmp_path: Path) -> None:
    raw = bundle_of(tmp_path, None)
    assert judged(raw, Anyone(KNOWN)) is None
    for trust in (Signed(KNOWN), Known(KNOWN)):
        with pytest.raises(UntrustedBundle, match="not signed, and unsigned bundles are refused"):
            judged(raw, trust)


def test_a_stripped_signature_leaves_an_unsigned_bundle(tmp_path: Path) -> None:
    parts = taken_apart(bundle_of(tmp_path, TEST_KEY))
    parts.signature = None
    stripped = put_together(parts)
    assert stripped == bundle_of(tmp_path, None)
    with pytest.raises(UntrustedBundle, match="not signed"):
        judged(stripped, Signed())


def test_a_signature_by_another_key_is_that_of_another(key: SigningKey, tmp_path: Path) -> None:
    parts = taken_apart(bundle_of(tmp_path, TEST_KEY))
    with pytest.raises(UntrustedBundle, match=key.public.fingerprint):
        judged(put_together(parts, key=key), Known(KNOWN))


def test_refusal_comes_before_anything_is_read(key: SigningKey, tmp_path: Path) -> None:
    raw = bundle_of(tmp_path, key)
    with pytest.raises(UntrustedBundle), open_bundle(io.BytesIO(raw), trust=Known(KNOWN)):
        pytest.fail("it was opened")
