"""How much a bundle may hold, and why: what is over a bound is refused before memory is spent on it.

Each bound is part of the format (FORMAT.md lists them): a writer keeps to them, so that every reader can read it.
"""

from __future__ import annotations

KIB, MIB = 1 << 10, 1 << 20

# --- the file -------------------------------------------------------------------------------------------------------

MAX_MANIFEST_BYTES = 8 * MIB  # 30,000 members take 5 MB
MAX_SIGNATURE_BYTES = KIB  # a key and a signature take 200 bytes
MAX_SHARDS = 10_000  # 40 GB of text: more is not one cube; five digits number them
MAX_ARTIFACTS = 10_000  # one KV cache for each of the memories that are used most
MAX_ARTIFACT_BYTES = 1 << 40  # a model's adapter or cache is far below; sizes must not overflow anything
MAX_SOURCES = 100_000  # memory versions from which one artifact was derived
MAX_MEMORIES = 10_000_000  # what MAX_SHARDS full shards can hold
MAX_AGE_HEADER_BYTES = 64 * KIB  # 300 recipients; an age file's header is read whole
MAX_RECIPIENTS = 100
MAX_IDENTITY_BYTES = 4 * KIB  # an encrypted age identity takes 400 bytes
MAX_KEY_FILE_BYTES = 16 * KIB  # a PEM key or an age identity file, with remarks
MAX_SCRYPT_LOG_N = 18  # what the age tool writes: 256 MB and about a second; each step more doubles both

# --- shards ---------------------------------------------------------------------------------------------------------

SHARD_BYTES = 4 * MIB  # of lines: a few shards in memory stay far below 100 MB, and 2 GB make 500 members
SHARD_MEMORIES = 1_024  # a header of a member is small against so many lines
SHARD_VECTOR_BYTES = 4 * MIB  # as SHARD_BYTES
MAX_LINE_BYTES = 16 * MIB  # one memory with its history; one version of MAX_CONTENT_CHARS always fits
MAX_LINE_VECTOR_BYTES = 16 * MIB  # one memory's vectors
MAX_JSON_DEPTH = 8  # a line needs 4: line, history, version, mention
MAX_JSON_TOKENS = 500_000  # strings and brackets: as objects each takes up to 230 bytes, so 16 MB would become 400
MAX_METADATA_DEPTH = 64  # metadata says what its source said; no front matter nests so deep

# --- one memory -----------------------------------------------------------------------------------------------------

MAX_CONTENT_CHARS = 1_000_000  # a turn is kept verbatim, and some paste whole logs or books into one
MAX_ID_CHARS = 64
MAX_NAME_CHARS = 256  # of an actor, role, author, change
MAX_SOURCE_CHARS = 2_048  # a URL
MAX_SESSION_CHARS = MAX_SOURCE_CHARS + MAX_NAME_CHARS
MAX_REASON_CHARS = 2_048
MAX_TAGS = 64
MAX_TAG_CHARS = 128
MAX_ENTITIES = 10_000  # names found in a text of a million characters
MAX_MENTIONS = 10_000  # as MAX_ENTITIES
MAX_PHRASE_CHARS = 1_000_000  # an entity or a mention is a piece of the content
MAX_METADATA_CHARS = 1_000_000
MAX_EDGES = 10_000  # a whole text has an edge from each piece, not to it; a fused memory has up to 100 parents
MAX_VERSIONS = 100_000  # MAX_LINE_BYTES comes first
MAX_COUNT = 2**31 - 1  # versions, positions, counts: what a column of 32 bits holds
MAX_PASSAGES = 4_096  # vectors of one memory
MAX_DIMENSION = 8_192  # of a vector; the largest embedders in use have 4,096

# --- the cube -------------------------------------------------------------------------------------------------------

MAX_CUBE_NAME_CHARS = 64
MAX_DESCRIPTION_CHARS = 2_000
MAX_LICENCE_CHARS = 200
MAX_GRANTS = 1_000
MAX_SNAPSHOT_NAME_CHARS = 64
MAX_SNAPSHOTS = 1_000  # named moments; with their reasons they still fit into a manifest
MAX_DAYS = 1_000_000.0  # of a policy
MAX_TOTAL = 2**53 - 1  # of counts: a whole number that every JSON reader keeps exactly
