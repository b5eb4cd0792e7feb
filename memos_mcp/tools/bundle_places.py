"""Where an MCP client may have bundles written and read: which file a name in a tool's arguments means.

The owner's assistants name files by absolute paths, and these end in `.memcube`, so that no other kind of file is ever
replaced. Whoever came in with an access token may be anywhere and see nothing of this machine: it names bundles by
bare names, which lie in a folder of its own within the data folder, since what one principal packs another may not
read. URLs are for the command line, where a person types them.
"""

from __future__ import annotations

import re
from pathlib import Path

from cubes.canonical import digest
from engine.errors import Invalid, NotAllowed
from engine.operations import Principal
from memos_mcp.wire import shown

SUFFIX = ".memcube"
FOLDER = "bundles"  # in the data folder
BARE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,120}\Z")


def bundle_path(text: str, principal: Principal, data: Path) -> Path:
    """The file that `text` names for this principal.

    Raises:
        Invalid: it is no name of a bundle; the message says which are.
    """
    if not text.endswith(SUFFIX):
        raise Invalid(f"{shown(text)!r} does not end in {SUFFIX}: name a bundle, as in notes{SUFFIX}")
    if principal.owner:
        path = Path(text).expanduser()
        if not path.is_absolute():
            raise Invalid(f"{shown(text)!r} is no absolute path: the server does not know which folder you are in")
        return path
    if not BARE_NAME.match(text):
        raise Invalid(
            f"{shown(text)!r} is no bare name of a bundle: use letters, digits, blanks, '.', '_' and '-', and no folder"
        )
    folder = data / FOLDER / _folder_of(principal)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / text
    if path.is_symlink():
        raise NotAllowed(f"{shown(text)!r} is a link to another place: name a file")
    return path


def _folder_of(principal: Principal) -> str:
    """Tokens' names are names of folders too, but for those that differ in case alone, where folders may not."""
    name = principal.name
    return name if name == name.lower() else f"{name}.{digest(name)[:8]}"


def shown_path(path: str, principal: Principal) -> str:
    """A path as this principal may see it: others than the owner learn nothing of where the data lie."""
    return path if principal.owner else Path(path).name


def no_secrets_from(principal: Principal, passphrase_file: str | None) -> Path | None:
    """The file that holds a passphrase; only the owner may name files of this machine.

    Raises:
        NotAllowed, Invalid: another principal named one, or it is no absolute path.
    """
    if passphrase_file is None:
        return None
    if not principal.owner:
        raise NotAllowed(
            "a passphrase file is on the server's machine, and only its owner may name one: use recipients"
        )
    path = Path(passphrase_file).expanduser()
    if not path.is_absolute():
        raise Invalid("'passphrase_file' must be an absolute path: the server does not know which folder you are in")
    return path
