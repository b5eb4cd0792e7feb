"""MemReader: what a client sends, read into drafts of memories."""

from engine.reader.drafts import Draft, Reading
from engine.reader.reading import RETRIEVAL_UNIT_CHARS, draft_text, read

__all__ = ["RETRIEVAL_UNIT_CHARS", "Draft", "Reading", "draft_text", "read"]
