"""The tables of the vault, as numbered migrations: a list that is only ever appended to.

Conventions: what a person said (contents, headers, reasons, vectors, sessions) is written through the vault's `Sealer`;
instants are `TIMESTAMP` in UTC; nested values are canonical JSON in `VARCHAR`; primary keys are the only
indexes (a secondary index under DuckDB 1.5 returned wrong rows after a crash). `revision` is the sequence number of the
audit row under which a row last changed, so the audit log is also the vault's clock.

`memories` holds the current version of each memory and `versions` the earlier ones, in the same columns. Content stands
in these two tables and nowhere else; `audit` and `tombstones` never hold any. `cubes` and `cube_versions` are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMORY_COLUMNS = (
    "id",
    "label",
    "cube",
    "version",
    "state",
    "kind",
    "content",
    "content_key",
    "created_at",
    "updated_at",
    "occurred_at",
    "expires_at",
    "session",
    "position",
    "header",
    "author",
    "change",
    "reason",
    "revision",
    "sensitivity",
    "parts",
    "recorded",
)
CUBE_COLUMNS = ("name", "owner", "version", "created_at", "updated_at", "header", "mounted", "revision")

_MEMORY_TABLE = """
    id VARCHAR NOT NULL,          -- never changes
    label BIGINT NOT NULL,        -- the number under which indexes know it; grows, is never used again
    cube VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    state VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    content VARCHAR NOT NULL,
    content_key BIGINT NOT NULL,  -- keyed hash of the normal form: equal keys are looked at as duplicates
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,  -- when this version was recorded
    occurred_at TIMESTAMP,
    expires_at TIMESTAMP,
    session VARCHAR,
    position INTEGER,
    header VARCHAR NOT NULL,      -- the rest of the header, canonical JSON
    author VARCHAR NOT NULL,
    change VARCHAR NOT NULL,
    reason VARCHAR,
    revision BIGINT NOT NULL
"""

_INITIAL = f"""
CREATE TABLE cubes (
    name VARCHAR PRIMARY KEY, owner VARCHAR NOT NULL, description VARCHAR NOT NULL, policy VARCHAR NOT NULL,
    version INTEGER NOT NULL, created_at TIMESTAMP NOT NULL, updated_at TIMESTAMP NOT NULL, revision BIGINT NOT NULL
);
CREATE TABLE memories ({_MEMORY_TABLE}, PRIMARY KEY (id));
CREATE TABLE versions ({_MEMORY_TABLE}, PRIMARY KEY (id, version));
CREATE TABLE tombstones (
    id VARCHAR PRIMARY KEY, label BIGINT NOT NULL, cube VARCHAR NOT NULL, revision BIGINT NOT NULL
);
CREATE TABLE lineage (
    derived VARCHAR NOT NULL, relation VARCHAR NOT NULL, source VARCHAR NOT NULL, source_version INTEGER NOT NULL,
    PRIMARY KEY (derived, relation, source)
);
CREATE TABLE embeddings (
    id VARCHAR NOT NULL, embedder VARCHAR NOT NULL, passages INTEGER NOT NULL,
    vectors BLOB NOT NULL,        -- float32, little-endian, [passages, dimension]
    PRIMARY KEY (id, embedder)
);
CREATE TABLE embedders (
    fingerprint VARCHAR PRIMARY KEY, source VARCHAR NOT NULL, dimension INTEGER NOT NULL, active BOOLEAN NOT NULL
);
CREATE TABLE usage (id VARCHAR PRIMARY KEY, access_count BIGINT NOT NULL, last_access TIMESTAMP NOT NULL);
CREATE TABLE operations (
    operation VARCHAR PRIMARY KEY, arguments VARCHAR NOT NULL, ids VARCHAR NOT NULL, result VARCHAR NOT NULL,
    recorded_at TIMESTAMP NOT NULL
);
CREATE TABLE confirmations (
    token VARCHAR PRIMARY KEY, principal VARCHAR NOT NULL, mode VARCHAR NOT NULL, items VARCHAR NOT NULL,
    expires_at TIMESTAMP NOT NULL
);
CREATE TABLE audit (
    seq BIGINT PRIMARY KEY, recorded_at TIMESTAMP NOT NULL, actor VARCHAR NOT NULL, client VARCHAR NOT NULL,
    action VARCHAR NOT NULL, cube VARCHAR NOT NULL, ids VARCHAR NOT NULL, reason VARCHAR, detail VARCHAR NOT NULL,
    previous VARCHAR NOT NULL, hash VARCHAR NOT NULL
);
"""


_OWNERSHIP = """
ALTER TABLE memories ADD COLUMN sensitivity VARCHAR DEFAULT 'normal';
ALTER TABLE memories ADD COLUMN parts INTEGER DEFAULT 0;   -- pieces of a long text: the whole is in no index
ALTER TABLE versions ADD COLUMN sensitivity VARCHAR DEFAULT 'normal';
ALTER TABLE versions ADD COLUMN parts INTEGER DEFAULT 0;
ALTER TABLE memories ADD COLUMN recorded BIGINT DEFAULT 0;  -- revision under which this version came to be: time travel
ALTER TABLE versions ADD COLUMN recorded BIGINT DEFAULT 0;
UPDATE memories SET recorded = least(revision, found.seq) FROM (
    SELECT id, seq FROM memories ASOF JOIN (SELECT recorded_at, max(seq) AS seq FROM audit GROUP BY recorded_at) AS a
    ON updated_at >= a.recorded_at) AS found WHERE memories.id = found.id;
UPDATE versions SET recorded = least(revision, found.seq) FROM (
    SELECT id, version, seq FROM versions
    ASOF JOIN (SELECT recorded_at, max(seq) AS seq FROM audit GROUP BY recorded_at)
    AS a ON updated_at >= a.recorded_at) AS found WHERE versions.id = found.id AND versions.version = found.version;
UPDATE memories SET sensitivity = header::JSON ->> 'sensitivity', parts = (header::JSON ->> 'parts')::INTEGER;
UPDATE versions SET sensitivity = header::JSON ->> 'sensitivity', parts = (header::JSON ->> 'parts')::INTEGER;
ALTER TABLE cubes ADD COLUMN header VARCHAR DEFAULT '{}';  -- the rest of the cube's header, JSON
ALTER TABLE cubes ADD COLUMN mounted VARCHAR;              -- the file or folder that it shows, if it is a mount
UPDATE cubes SET header = json_object('description', description, 'policy', policy::JSON)::VARCHAR;
ALTER TABLE cubes DROP COLUMN description;
ALTER TABLE cubes DROP COLUMN policy;
CREATE TABLE cube_versions (  -- every version of a cube's header, the present one too
    name VARCHAR NOT NULL, owner VARCHAR NOT NULL, version INTEGER NOT NULL, created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL, header VARCHAR NOT NULL, mounted VARCHAR, revision BIGINT NOT NULL,
    author VARCHAR NOT NULL, change VARCHAR NOT NULL, reason VARCHAR,
    PRIMARY KEY (name, version)
);
INSERT INTO cube_versions
    SELECT name, owner, version, created_at, updated_at, header, mounted, revision, owner, 'create', NULL FROM cubes;
CREATE TABLE snapshots (      -- named moments of a cube
    cube VARCHAR NOT NULL, name VARCHAR NOT NULL, moment TIMESTAMP NOT NULL, author VARCHAR NOT NULL, reason VARCHAR,
    revision BIGINT NOT NULL,
    PRIMARY KEY (cube, name)
);
CREATE TABLE mounts (         -- files and folders that are shown as cubes
    path VARCHAR PRIMARY KEY, kind VARCHAR NOT NULL, cube VARCHAR NOT NULL, added_at TIMESTAMP NOT NULL
);
CREATE TABLE artifacts (      -- what was derived for a local model; the bytes lie in the blob of that digest
    id VARCHAR PRIMARY KEY, cube VARCHAR NOT NULL, kind VARCHAR NOT NULL, fingerprint VARCHAR NOT NULL,
    digest VARCHAR NOT NULL, bytes BIGINT NOT NULL, header VARCHAR NOT NULL, created_at TIMESTAMP NOT NULL,
    revision BIGINT NOT NULL
);
ALTER TABLE lineage ADD COLUMN imported BOOLEAN DEFAULT false;  -- said by a file, not seen to happen here
ALTER TABLE tombstones ADD COLUMN sensitivity VARCHAR DEFAULT 'normal';  -- who could not see it hears of no erasure
"""

_DERIVED = """
ALTER TABLE artifacts ADD COLUMN sources VARCHAR[];         -- ids of the memories; NULL: only the header says them
ALTER TABLE artifacts ADD COLUMN uses BIGINT DEFAULT 0;
ALTER TABLE artifacts ADD COLUMN heat DOUBLE DEFAULT 0;     -- uses that fade, as of `last_use`
ALTER TABLE artifacts ADD COLUMN last_use TIMESTAMP;
ALTER TABLE artifacts ADD COLUMN vouched BOOLEAN DEFAULT true;  -- made here, signed by who is trusted, or checked
UPDATE artifacts SET vouched = false;  -- those that are there came with bundles, and nobody noted whose
"""

_PARAMETRIC = """
CREATE TABLE adapters (       -- versions of the adapters of a cube; their weights are `artifacts` of the kind lora
    artifact VARCHAR PRIMARY KEY, cube VARCHAR NOT NULL, version INTEGER NOT NULL,
    state VARCHAR NOT NULL,       -- serving, resting, failed; gone: its artifact is no more, and `header` is empty
    header VARCHAR NOT NULL,      -- what it knows and how it was made, JSON
    changed_at TIMESTAMP NOT NULL
);
CREATE TABLE work (           -- long work that outlives the process: what waits, what runs, what became of it
    id VARCHAR PRIMARY KEY, cube VARCHAR NOT NULL, what VARCHAR NOT NULL,
    state VARCHAR NOT NULL,       -- waiting, running, done, failed, cancelled
    header VARCHAR NOT NULL,      -- what it is to do and what became of it, JSON
    attempts INTEGER NOT NULL, asked_at TIMESTAMP NOT NULL, began_at TIMESTAMP, ended_at TIMESTAMP
);
CREATE TABLE heat (           -- of memories: see engine/scheduler/heat.py
    id VARCHAR PRIMARY KEY, fast DOUBLE NOT NULL, slow DOUBLE NOT NULL, uses BIGINT NOT NULL, helped BIGINT NOT NULL,
    misled BIGINT NOT NULL, last_use TIMESTAMP, crossed VARCHAR NOT NULL  -- levels and when, JSON
);
CREATE TABLE scenes (         -- the log of uses from which the next one is predicted; it never leaves the machine
    number BIGINT PRIMARY KEY, asked_at TIMESTAMP NOT NULL, session VARCHAR NOT NULL, used VARCHAR[] NOT NULL,
    vector BLOB                   -- of what was asked, float32, little-endian
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """From schema `number - 1` to `number`."""

    number: int
    says: str
    sql: str


MIGRATIONS: tuple[Migration, ...] = (
    Migration(1, "cubes, memories, versions, lineage, embeddings, audit", _INITIAL),
    Migration(2, "versions of cubes, snapshots, mounts, artifacts, sensitivity", _OWNERSHIP),
    Migration(3, "what artifacts were derived from, and how often they are used", _DERIVED),
    Migration(4, "versions of adapters, long work, heat, the log of uses", _PARAMETRIC),
)

META_TABLE = "CREATE TABLE IF NOT EXISTS meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL)"
