"""The words of the commands about whole cubes, bundles, mounts, governance and the audit log.

As `arguments`, which puts them together: no daemon, and none of the modules that do the work.
"""

from __future__ import annotations

import argparse

from memos_mcp.commands.command import Command

SENSITIVITIES = ("normal", "personal", "secret")
SCOPES = ("private", "shared", "public")
ACTIONS = ("read", "write", "share", "admin")
TRUST_POLICIES = ("any", "signed", "known")
NO_BOUND = "0: no bound"
SHELF_HELP = "a folder, s3://…, or to read from, https://…"


def _cube(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="CUBE")


def _reason(p: argparse.ArgumentParser) -> None:
    p.add_argument("--reason", help="goes into the history and the audit log")


def _yes(p: argparse.ArgumentParser) -> None:
    p.add_argument("--yes", action="store_true", help="do not ask")


def _header(p: argparse.ArgumentParser) -> None:
    _cube(p)
    p.add_argument("--description", help="what it is for")
    p.add_argument("--licence", help="what others may do with it, for example CC-BY-4.0")
    _scopes(p)
    p.add_argument("--ttl-days", type=float, metavar="DAYS", help=f"new memories expire after this; {NO_BOUND}")
    p.add_argument(
        "--decay-days",
        type=float,
        metavar="DAYS",
        help=f"memories that nobody used for so long are archived; {NO_BOUND}",
    )
    p.add_argument("--keep-versions", type=int, metavar="N", help=f"earlier versions of a memory to keep; {NO_BOUND}")
    p.add_argument("--keep-days", type=float, metavar="DAYS", help=f"how long earlier versions are kept; {NO_BOUND}")
    p.add_argument("--max-memories", type=int, metavar="N", help=f"how many memories it may hold; {NO_BOUND}")
    p.add_argument("--max-bytes", type=int, metavar="N", help=f"how many bytes of text it may hold; {NO_BOUND}")
    _reason(p)


def _scopes(p: argparse.ArgumentParser) -> None:
    for name, verb in (("read", "read it"), ("write", "write to it"), ("share", "pack it and pass it on")):
        p.add_argument(f"--{name}", choices=SCOPES, help=f"who may {verb}")


def _share(p: argparse.ArgumentParser) -> None:
    _cube(p)
    _scopes(p)
    p.add_argument("--principal", metavar="NAME", help="let this token in, by its name")
    p.add_argument(
        "--action",
        dest="actions",
        action="append",
        choices=ACTIONS,
        help="what it may do; may be repeated (default read)",
    )
    p.add_argument("--revoke", metavar="NAME", help="take away what this token was granted here")
    _reason(p)


# --- time ---------------------------------------------------------------------------------------------------------


def _snapshot(p: argparse.ArgumentParser) -> None:
    _cube(p)
    p.add_argument("name", metavar="NAME", help="what to call this moment")
    p.add_argument("--drop", action="store_true", help="forget the name; the memories stay as they are")
    _reason(p)


def _diff(p: argparse.ArgumentParser) -> None:
    moment = "a .memcube file, or CUBE for the present, or CUBE@SNAPSHOT, or CUBE@INSTANT"
    p.add_argument("before", metavar="A", help=moment)
    p.add_argument("after", metavar="B", help="the same")
    _passphrase(p)


def _rollback(p: argparse.ArgumentParser) -> None:
    _cube(p)
    p.add_argument("--to", required=True, metavar="MOMENT", help="the name of a snapshot, or an ISO datetime")
    p.add_argument("--dry-run", action="store_true", help="say what would happen")
    _yes(p)
    _reason(p)


# --- bundles ------------------------------------------------------------------------------------------------------


def _passphrase(p: argparse.ArgumentParser) -> None:
    p.add_argument("--passphrase-file", metavar="FILE", help="a file that holds the passphrase; asked for when needed")


def _packing(p: argparse.ArgumentParser, redactions: tuple[str, ...] = SENSITIVITIES[1:]) -> None:
    p.add_argument("--no-history", dest="history", action="store_false", help="leave out earlier versions")
    p.add_argument("--no-embeddings", dest="embeddings", action="store_false", help="leave out vectors")
    usual = "; secret unless said otherwise" if "none" in redactions else ""
    p.add_argument("--redact", choices=redactions, help=f"leave out what is at least this sensitive{usual}")
    p.add_argument("--snapshot", metavar="NAME", help="as the cube was then")
    p.add_argument("--no-sign", dest="sign", action="store_false", help="do not sign, though there is a key")
    p.add_argument(
        "--recipient",
        dest="recipients",
        action="append",
        metavar="KEY",
        help="encrypt to this age key; may be repeated",
    )
    p.add_argument("--encrypt", action="store_true", help="encrypt to a passphrase, which is asked for")
    _passphrase(p)


def _pack(p: argparse.ArgumentParser) -> None:
    _cube(p)
    p.add_argument("file", metavar="FILE", help="ends in .memcube")
    p.add_argument("--replace", action="store_true", help="replace a file that is there")
    _packing(p)


def _file(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", metavar="FILE")
    _passphrase(p)


def _install(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", metavar="SOURCE", help="a file, the URL of one, or SHELF#NAME, or SHELF#NAME@DIGEST")
    p.add_argument("--as", dest="name", metavar="NAME", help="under this name instead of its own")
    p.add_argument("--dry-run", action="store_true", help="say what would happen")
    p.add_argument("--keep-policy", action="store_true", help="take over the scopes and grants that it offers")
    _passphrase(p)


def _unpack(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", metavar="FILE")
    p.add_argument("folder", metavar="DIR", help="must not exist")
    _passphrase(p)


def _publish(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="CUBE-OR-FILE", help="a cube, or a .memcube file as it is")
    p.add_argument("url", metavar="SHELF", help=SHELF_HELP)
    _packing(p, ("none", *SENSITIVITIES[1:]))


def _shelf(p: argparse.ArgumentParser) -> None:
    p.add_argument("url", metavar="SHELF", help=SHELF_HELP)


def _search(p: argparse.ArgumentParser) -> None:
    _shelf(p)
    p.add_argument("query", metavar="QUERY")


def _delete(p: argparse.ArgumentParser) -> None:
    _cube(p)
    _yes(p)


# --- keys -----------------------------------------------------------------------------------------------------------


def _key(p: argparse.ArgumentParser) -> None:
    p.add_argument("key", metavar="KEY", help="a public key, or a file that holds one, or a bundle that it signed")
    p.add_argument("--name", metavar="NAME", help="what to call it")


def _fingerprint(p: argparse.ArgumentParser) -> None:
    p.add_argument("key", metavar="KEY", help="its fingerprint or name")


def _policy(p: argparse.ArgumentParser) -> None:
    p.add_argument("policy", nargs="?", choices=TRUST_POLICIES, help="absent: show the present one")


# --- mounts, governance, audit --------------------------------------------------------------------------------------


def _mount(p: argparse.ArgumentParser) -> None:
    p.add_argument("path", metavar="PATH", help="a .memcube file, or a folder of notes or of .memcube files")
    words = "the cube's name (default: the file's or folder's); not for a folder of bundles"
    p.add_argument("--as", dest="name", metavar="NAME", help=words)


def _unmount(p: argparse.ArgumentParser) -> None:
    p.add_argument("cube", metavar="NAME", help="as `mounts` shows it, or the path: a folder of bundles goes by it")


def _govern(p: argparse.ArgumentParser) -> None:
    p.add_argument("ids", nargs="+", metavar="ID")
    for name, what in (
        ("pin", "never let it go for want of use"),
        ("freeze", "refuse every change of it"),
    ):
        either = p.add_mutually_exclusive_group()
        dest = {"pin": "pinned", "freeze": "frozen"}[name]
        either.add_argument(f"--{name}", dest=dest, action="store_true", default=None, help=what)
        either.add_argument(f"--un{name}", dest=dest, action="store_false", default=None, help="undo that")
    p.add_argument("--sensitivity", choices=SENSITIVITIES, help="who may see it")
    p.add_argument("--priority", type=int, metavar="N", help="how long it is kept when unused")
    p.add_argument("--expires-in-days", type=float, metavar="DAYS", help="0 takes the end away")
    p.add_argument(
        "--tag", "--tags", dest="tags", action="append", metavar="TAG", help="its tags from now on; may be repeated"
    )
    p.add_argument("--no-tags", action="store_true", help="take its tags away")
    _reason(p)


def _audit_verify(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "file", nargs="?", metavar="FILE", help="a backup or another copy of the database (default: the store)"
    )


def _audit_show(p: argparse.ArgumentParser) -> None:
    p.add_argument("--cube", help="only of this cube")
    p.add_argument("--since", type=int, metavar="SEQ", help="the first rows after this number (default: the last)")
    p.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many (default 100)")


def _receipt_id(p: argparse.ArgumentParser) -> None:
    p.add_argument("id", metavar="RECEIPT", help="its id, as forget and `receipt list` show it")


def _receipt_file(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", metavar="FILE", help="its JSON, or the whole answer of forget --json; - is standard input")


KEY = Command(
    "key",
    "make and manage the keys that bundles are signed with",
    parts=(
        Command("create", "make this store's keys: one to sign with, one to receive encrypted bundles", "keys:create"),
        Command("show", "show this store's public keys and the keys that are trusted", "keys:show"),
        Command("trust", "trust bundles that this key signed", "keys:trust", _key),
        Command("untrust", "trust a key no more", "keys:untrust", _fingerprint),
        Command("policy", "which bundles are let in: any, signed ones, those of known keys", "keys:policy", _policy),
    ),
)

SHELF = Command(
    "shelf",
    "see what lies on a shelf of bundles",
    parts=(
        Command("list", "list every bundle on a shelf", "shelves:shelf", _shelf),
        Command("search", "find bundles on a shelf by words", "shelves:shelf", _search),
    ),
)

CUBE = Command(
    "cube",
    "look at cubes, pack, install, share and roll them back",
    parts=(
        Command("list", "list the cubes that there are", "cubes:show_all"),
        Command("create", "make a cube", "cubes:create", _header),
        Command("show", "show a cube: header, policy, counts, artifacts", "cubes:show", _cube),
        Command("set", "change what a cube says of itself, or its rules", "cubes:change", _header),
        Command("share", "say who may do what with a cube", "cubes:share", _share),
        Command("snapshot", "give the present moment of a cube a name", "moments:snapshot", _snapshot),
        Command("snapshots", "list a cube's named moments", "moments:snapshots", _cube),
        Command("history", "show every version of a cube's header", "moments:history", _cube),
        Command("diff", "say what differs between two moments or files", "moments:diff", _diff),
        Command("rollback", "bring a whole cube back to a moment", "moments:rollback", _rollback),
        Command("pack", "write a cube into one .memcube file", "bundles:pack", _pack),
        Command("inspect", "say what a .memcube file holds", "bundles:inspect", _file),
        Command("verify", "check every byte and the signature of a .memcube file", "bundles:verify", _file),
        Command("install", "put a .memcube file into the store", "bundles:install", _install),
        Command("upgrade", "bring an installed cube up to a newer file", "bundles:upgrade", _install),
        Command("unpack", "write a .memcube file out as plain files", "bundles:unpack", _unpack),
        Command("publish", "put a cube on a shelf", "shelves:publish", _publish),
        SHELF,
        Command("delete", "erase a whole cube, for good", "cubes:delete", _delete),
        KEY,
    ),
)

MOUNTING = (
    Command("mount", "show a .memcube file or a folder as a read-only cube", "mounts:mount", _mount),
    Command("unmount", "show it no more; the files stay as they are", "mounts:unmount", _unmount),
    Command("mounts", "list what is mounted", "mounts:mounts"),
)

GOVERN = Command("govern", "pin, freeze, tag or protect memories", "governing:govern", _govern)

AUDIT = Command(
    "audit",
    "check and read the log of every change",
    parts=(
        Command("verify", "check the log's chain, of the store or of a copy", "governing:verify", _audit_verify),
        Command("show", "show the log, newest last", "governing:show", _audit_show),
    ),
)

RECEIPT = Command(
    "receipt",
    "look at, and verify, the proofs of what was erased",
    parts=(
        Command("list", "list every receipt", "receipts:show_all"),
        Command("show", "show what an erasure reached, and what was done since", "receipts:show", _receipt_id),
        Command("verify", "check the signature of a receipt in a file", "receipts:verify", _receipt_file),
    ),
)
