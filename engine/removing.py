"""Remove a whole cube: its memories, their history, its header, snapshots and artifacts.

What was fused out of it into other cubes stays there: it belongs to them. What other cubes gave to it, and was kept as
merged, lives again. A removed cube leaves its audit rows and one tombstone, which keeps its labels from being given
again; a bundle of it can be installed anew under the same ids.
"""

from __future__ import annotations

from cubes import Action
from engine.errors import Frozen, Invalid, NotFound
from engine.governance.access import no_cube, require
from engine.lifecycle.states import Step, state_after
from engine.parts import Parts
from engine.vault import Transaction, queries

UNMOUNT = "unmount"  # the change under which a cube that shows a file goes
BATCH = 1_000  # memories that are looked at together

_BY_MEMORY = (
    ("versions", "id"),
    ("embeddings", "id"),
    ("usage", "id"),
    ("lineage", "derived"),
    ("lineage", "source"),
    ("heat", "id"),
)
_BY_CUBE = (("snapshots", "cube"), ("memories", "cube"), ("adapters", "cube"), ("work", "cube"))
_BY_NAME = (("cube_versions", "name"), ("cubes", "name"))
_SCENES = "DELETE FROM scenes WHERE list_has_any(used, (SELECT list(id) FROM memories WHERE cube = ?))"

_FREED = """
SELECT DISTINCT edge.source FROM lineage AS edge JOIN memories AS parent ON parent.id = edge.source
WHERE edge.relation = 'fused_from' AND NOT edge.imported AND parent.cube <> ? AND parent.state = 'merged'
  AND edge.derived IN (SELECT id FROM memories WHERE cube = ?)
  AND NOT EXISTS (
    SELECT 1 FROM lineage AS other JOIN memories AS holder ON holder.id = other.derived
    WHERE other.relation = 'fused_from' AND other.source = edge.source AND holder.cube <> ?
      AND holder.state IN ('generated', 'activated'))
ORDER BY edge.source
"""


def remove(
    parts: Parts, transaction: Transaction, name: str, change: str = "delete_cube", *, reason: str | None = None
) -> int:
    """Remove the cube `name`; how many memories it held. Its index goes when the transaction is durable.

    Raises:
        NotFound: there is no such cube.
        NotAllowed: the caller may not administer it.
        Frozen: a memory in it is held against change.
        Invalid: it is a mount, and this is no unmounting.
    """
    cube = queries.cube(transaction.connection, name)
    if cube is None:
        raise NotFound(no_cube(name))
    require(transaction.caller.principal, cube, Action.ADMIN)
    if cube.mounted is not None and change != UNMOUNT:
        shows = cube.mounted if transaction.caller.principal.owner else "a file or folder"
        raise Invalid(f"cube {name!r} shows {shows}: take it away with `memos-mcp unmount {name}`")
    if cube.mounted is None and (held := _frozen(transaction, name)) is not None:
        raise Frozen(f"{held} in cube {name!r} is frozen: unfreeze it first (`memos-mcp govern --unfreeze {held}`)")
    count = transaction.rows("SELECT count(*) FROM memories WHERE cube = ?", [name])[0][0]
    freed = transaction.records(row[0] for row in transaction.rows(_FREED, [name, name, name]))
    revision = transaction.audit(change, name, reason=reason, memories=count)
    for record in freed.values():
        if not record.memory.governance.frozen:
            transaction.move(record, state_after(record.memory, Step.RESTORE), "unfuse", revision)
    _drop_artifacts(transaction, name)
    transaction.rows(_SCENES, [name])
    for table, column in _BY_MEMORY:
        transaction.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT id FROM memories WHERE cube = ?)", [name])
    for table, column in (*_BY_CUBE, *_BY_NAME):
        transaction.execute(f"DELETE FROM {table} WHERE {column} = ?", [name])
    tombstone = (f"cube:{revision}", transaction.head.label, name, revision)
    transaction.insert("tombstones", ("id", "label", "cube", "revision"), [tombstone])
    transaction.cubes_changed = True
    transaction.after(lambda: parts.indexes.drop(name))
    return int(count)


def _drop_artifacts(transaction: Transaction, cube: str) -> None:
    """Let the artifacts of the cube go, those of other cubes that were derived from its memories, and those of
    conversations, which may quote them."""
    gone = transaction.rows("DELETE FROM artifacts WHERE cube = ? RETURNING digest", [cube])
    transaction.unneeded.update(row[0] for row in gone)
    ids = transaction.rows("SELECT id FROM memories WHERE cube = ?", [cube])
    transaction.outdated.update({row[0]: 0 for row in ids})
    transaction.erasing = True


def _frozen(transaction: Transaction, cube: str) -> str | None:
    """A memory of the cube that is held against change."""
    label = 0
    while True:
        records = queries.page(
            transaction.connection, cube, after_label=label, limit=BATCH, kind=None, tag=None, state=None
        )
        for record in records:
            if record.memory.governance.frozen:
                return record.memory.id
        if len(records) < BATCH:
            return None
        label = records[-1].label
