"""What a memory is: MemCube, Memory, their headers, canonical bytes and digests."""

from cubes.canonical import canonical_bytes, digest
from cubes.cube import (
    KINDS,
    Behavioural,
    CubePolicy,
    Descriptive,
    Governance,
    Kind,
    Lineage,
    MemCube,
    Memory,
    Mention,
    Origin,
    Relation,
    Scope,
    Sensitivity,
    State,
    Tier,
    memory_digest,
)
from cubes.errors import CubeError, MalformedCube

__all__ = [
    "KINDS",
    "Behavioural",
    "CubeError",
    "CubePolicy",
    "Descriptive",
    "Governance",
    "Kind",
    "Lineage",
    "MalformedCube",
    "MemCube",
    "Memory",
    "Mention",
    "Origin",
    "Relation",
    "Scope",
    "Sensitivity",
    "State",
    "Tier",
    "canonical_bytes",
    "digest",
    "memory_digest",
]
