"""The keys of a store: made on request, private, and what decides whose bundles are let in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cubes.signing import PublicKey, create_signing_key
from engine import keys
from engine.errors import Conflict, Corrupt, Invalid, NotAllowed, NotFound
from engine.settings import Settings


def other_key(folder: Path, name: str = "other") -> PublicKey:
    return create_signing_key(folder / f"{name}.pem").public


def test_there_are_none_until_they_are_asked_for(settings: Settings) -> None:
    assert keys.own_keys(settings) == keys.OwnKeys(None, None)
    assert keys.trusted(settings) == keys.Trusted("any", ())
    assert not settings.keys_folder.exists()


def test_they_are_private_and_stay_what_they_are(settings: Settings) -> None:
    own = keys.create_keys(settings)
    assert own.recipient is not None
    assert own.recipient.startswith("age1")
    assert keys.own_keys(settings) == own
    assert settings.keys_folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in settings.keys_folder.iterdir()} == {0o600}
    with pytest.raises(Conflict):
        keys.create_keys(settings)
    assert keys.own_keys(settings) == own


def test_one_that_is_missing_is_made_and_the_other_kept(settings: Settings) -> None:
    own = keys.create_keys(settings)
    (settings.keys_folder / keys.IDENTITY).unlink()
    again = keys.create_keys(settings)
    assert again.signing == own.signing
    assert again.recipient != own.recipient


def test_a_key_that_others_can_read_is_refused(settings: Settings) -> None:
    keys.create_keys(settings)
    (settings.keys_folder / keys.SIGNING).chmod(0o644)
    with pytest.raises(Invalid, match="chmod 600"):
        keys.signing_key(settings)


def test_a_key_is_trusted_by_a_name_and_let_go_by_either(settings: Settings, tmp_path: Path) -> None:
    key = other_key(tmp_path)
    assert keys.trust(settings, key, "Anna").keys == (("Anna", key),)
    assert keys.trust(settings, key, "Anna").keys == (("Anna", key),)
    with pytest.raises(Conflict):
        keys.trust(settings, key, "Berta")
    with pytest.raises(Conflict):
        keys.trust(settings, other_key(tmp_path, "third"), "Anna")
    assert keys.untrust(settings, key.fingerprint).keys == ()
    with pytest.raises(NotFound):
        keys.untrust(settings, "Anna")
    assert keys.trust(settings, key).keys == ((key.fingerprint, key),)


@pytest.mark.parametrize("name", ["", " Anna", "a\nb", "x" * 65])
def test_a_name_that_nobody_can_read_is_refused(settings: Settings, tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid):
        keys.trust(settings, other_key(tmp_path), name)


def test_a_policy_is_one_of_three_and_keeps_the_keys(settings: Settings, tmp_path: Path) -> None:
    key = other_key(tmp_path)
    keys.trust(settings, key, "Anna")
    assert keys.set_policy(settings, "known") == keys.Trusted("known", (("Anna", key),))
    with pytest.raises(Invalid):
        keys.set_policy(settings, "nobody")


def test_the_stores_own_key_is_known_to_it(settings: Settings) -> None:
    own = keys.create_keys(settings)
    keys.set_policy(settings, "known")
    signature = keys.judge(settings).judge(own.signing)
    assert signature is not None
    assert signature.known_as == keys.OWN_NAME


def test_damage_lets_nothing_in(settings: Settings) -> None:
    keys.set_policy(settings, "known")
    path = settings.keys_folder / keys.TRUST
    for damage in ("", "[]", json.dumps({"format": 1, "policy": "all", "keys": {}}), json.dumps({"policy": "any"})):
        path.write_text(damage)
        with pytest.raises(Corrupt, match=r"trust\.json"):
            keys.judge(settings)
    path.chmod(0o644)
    with pytest.raises(Invalid):
        keys.judge(settings)


def test_a_key_is_read_from_its_text_or_a_file(settings: Settings, tmp_path: Path) -> None:
    key = other_key(tmp_path)
    file = tmp_path / "anna.pub"
    file.write_text(f"{key}\n")
    assert keys.key_from(str(key)) == keys.key_from(str(file)) == key
    with pytest.raises(NotAllowed):
        keys.key_from("nothing of the kind")


def test_a_passphrase_is_in_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "phrase"
    file.write_text("correct horse \n")
    file.chmod(0o600)
    assert keys.passphrase(file) == "correct horse "
    file.chmod(0o640)
    with pytest.raises(Invalid):
        keys.passphrase(file)
    file.chmod(0o600)
    file.write_text("\n")
    with pytest.raises(Invalid):
        keys.passphrase(file)
