"""From the engine's values about whole cubes to JSON: headers, moments, bundles, mounts, the audit log.

As `render`, which has memories: names are those of the contract, and nothing is asked of the engine. What a principal
may see of a header the engine has decided already.
"""

from __future__ import annotations

from typing import Any

from cubes import CubePolicy, MemCube
from engine.cube_operations import (
    Artifact,
    AuditEntry,
    CubeDiff,
    CubeFile,
    CubeVersion,
    Installed,
    Mount,
    Packed,
    RolledBack,
    Shelved,
    Snapshot,
)
from engine.operations import CubeView
from memos_mcp.render import when


def cube(header: MemCube) -> dict[str, Any]:
    """A cube's own header."""
    came_from = header.provenance
    return {
        "name": header.name,
        "description": header.description,
        "owner": header.owner,
        "version": header.version,
        "created_at": when(header.created_at),
        "updated_at": when(header.updated_at),
        "policy": policy(header.policy),
        "licence": header.licence,
        "provenance": None
        if came_from is None
        else {"store": came_from.store, "cube": came_from.cube, "owner": came_from.owner},
        "offered": None if header.offered is None else policy(header.offered),
        "mounted": header.mounted,
    }


def policy(rules: CubePolicy) -> dict[str, Any]:
    """Who may do what with a cube, and what is bounded."""
    return {
        "read": rules.read.value,
        "write": rules.write.value,
        "share": rules.share.value,
        "grants": [
            {"principal": grant.principal, "actions": [action.value for action in grant.actions]}
            for grant in rules.grants
        ],
        "ttl_days": rules.ttl_days,
        "decay_days": rules.decay_days,
        "keep_versions": rules.keep_versions,
        "keep_days": rules.keep_days,
        "max_memories": rules.max_memories,
        "max_bytes": rules.max_bytes,
    }


def cube_view(view: CubeView) -> dict[str, Any]:
    """A cube and what it holds."""
    return {
        **cube(view.cube),
        "memories": view.memories,
        "states": dict(view.states),
        "kinds": dict(view.kinds),
        "revision": view.revision,
    }


# --- time -----------------------------------------------------------------------------------------------------------


def snapshot(row: Snapshot) -> dict[str, Any]:
    """A named moment."""
    return {"name": row.name, "at": when(row.at), "author": row.author, "reason": row.reason}


def cube_version(row: CubeVersion) -> dict[str, Any]:
    """One version of a cube's header."""
    return {
        "version": row.cube.version,
        "at": when(row.at),
        "author": row.author,
        "change": row.change,
        "reason": row.reason,
        "content": None,
        "description": row.cube.description,
        "header": cube(row.cube),
    }


def diff(found: CubeDiff) -> dict[str, Any]:
    """What differs between two moments or files."""
    return {
        "before": found.before,
        "after": found.after,
        "added": list(found.added),
        "removed": list(found.removed),
        "changed": [{"id": row.id, "fields": _fields(row.fields)} for row in found.changed],
        "header": _fields(found.header),
    }


def _fields(rows: tuple[tuple[str, object, object], ...]) -> list[dict[str, Any]]:
    return [{"name": name, "before": before, "after": after} for name, before, after in rows]


def rolled_back(outcome: RolledBack) -> dict[str, Any]:
    """What a rollback did, or would do."""
    return {
        "cube": outcome.cube,
        "to": when(outcome.to),
        "revision": outcome.revision,
        "before": outcome.before,
        "restored": list(outcome.restored),
        "archived": list(outcome.archived),
        "expired": list(outcome.expired),
        "unfused": list(outcome.unfused),
        "header": list(outcome.header),
        "kept": list(outcome.kept),
        "gone": list(outcome.gone),
    }


# --- bundles and mounts ---------------------------------------------------------------------------------------------


def packed(outcome: Packed) -> dict[str, Any]:
    """A bundle that was written."""
    return {
        "cube": outcome.cube,
        "path": outcome.path,
        "memories": outcome.memories,
        "versions": outcome.versions,
        "bytes": outcome.bytes,
        "digest": outcome.digest,
        "signed_by": outcome.signed_by,
        "redacted": outcome.redacted,
        "remarks": list(outcome.remarks),
    }


def installed(outcome: Installed) -> dict[str, Any]:
    """A bundle that came in."""
    return {
        "cube": outcome.cube,
        "revision": outcome.revision,
        "memories": outcome.memories,
        "versions": outcome.versions,
        "signed_by": outcome.signed_by,
        "trusted": outcome.trusted,
        "reembedded": outcome.reembedded,
        "artifacts": [{"id": id, "state": state} for id, state in outcome.artifacts],
        "renamed_ids": outcome.renamed_ids,
        "diff": None if outcome.diff is None else diff(outcome.diff),
        "kept_local": list(outcome.kept_local),
    }


def cube_file(found: CubeFile) -> dict[str, Any]:
    """What a bundle says of itself."""
    return {
        "path": found.path,
        "name": found.name,
        "memories": found.memories,
        "versions": found.versions,
        "states": dict(found.states),
        "bytes": found.bytes,
        "digest": found.digest,
        "signed_by": found.signed_by,
        "trusted": found.trusted,
        "encrypted": found.encrypted,
        "redacted": found.redacted,
        "embedder": found.embedder,
        "artifacts": found.artifacts,
        "header": cube(found.header),
    }


def shelved(row: Shelved) -> dict[str, Any]:
    """A bundle on a shelf, as the shelf describes it."""
    return {
        "name": row.name,
        "digest": row.digest,
        "bytes": row.bytes,
        "memories": row.memories,
        "versions": row.versions,
        "artifacts": row.artifacts,
        "description": row.description,
        "licence": row.licence,
        "encrypted": row.encrypted,
        "redacted": row.redacted,
        "signed_by": row.signed_by,
        "published_at": when(row.published_at),
        "origin": row.origin,
    }


def artifact(row: Artifact) -> dict[str, Any]:
    """A KV cache or an adapter, and what it was made from."""
    return {
        "id": row.id,
        "cube": row.cube,
        "kind": row.kind,
        "fingerprint": row.fingerprint,
        "digest": row.digest,
        "bytes": row.bytes,
        "sources": [{"id": id, "version": version} for id, version in row.sources],
        "state": row.state,
        "version": row.version or None,
        "created_at": when(row.created_at),
    }


def mount(row: Mount) -> dict[str, Any]:
    """A file or folder that is shown as a cube."""
    return {
        "path": row.path,
        "kind": row.kind,
        "cube": row.cube,
        "state": row.state,
        "memories": row.memories,
        "problems": list(row.problems),
    }


def audit_entry(row: AuditEntry) -> dict[str, Any]:
    """One change, as the log has it."""
    return {
        "seq": row.seq,
        "at": when(row.at),
        "actor": row.actor,
        "client": row.client,
        "action": row.action,
        "cube": row.cube,
        "ids": list(row.ids),
        "reason": row.reason,
        "detail": row.detail,
    }
