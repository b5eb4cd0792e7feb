"""What a memory is: MemCube, Memory, their headers, canonical bytes and digests.

The `.memcube` file has its own modules, imported where they are used: `cubes.packing` writes one, `cubes.bundle` reads
it, `cubes.differences` compares two, `cubes.signing` and `cubes.encryption` hold the keys. FORMAT.md specifies it.
"""

from cubes.canonical import canonical_bytes, digest
from cubes.cube import (
    KINDS,
    Action,
    Behavioural,
    CubePolicy,
    Descriptive,
    Governance,
    Grant,
    Kind,
    Lineage,
    MemCube,
    Memory,
    Mention,
    Origin,
    Provenance,
    Relation,
    Scope,
    Sensitivity,
    State,
    Tier,
    memory_digest,
)
from cubes.errors import (
    CubeError,
    DamagedBundle,
    MalformedCube,
    TooLargeBundle,
    UnsupportedBundle,
    UntrustedBundle,
    UnusableFile,
    WrongKey,
)

__all__ = [
    "KINDS",
    "Action",
    "Behavioural",
    "CubeError",
    "CubePolicy",
    "DamagedBundle",
    "Descriptive",
    "Governance",
    "Grant",
    "Kind",
    "Lineage",
    "MalformedCube",
    "MemCube",
    "Memory",
    "Mention",
    "Origin",
    "Provenance",
    "Relation",
    "Scope",
    "Sensitivity",
    "State",
    "Tier",
    "TooLargeBundle",
    "UnsupportedBundle",
    "UntrustedBundle",
    "UnusableFile",
    "WrongKey",
    "canonical_bytes",
    "digest",
    "memory_digest",
]
