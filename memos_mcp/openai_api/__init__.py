"""The OpenAI-compatible endpoint: what any OpenAI client can ask of the model and of the embedder."""

from memos_mcp.openai_api.errors import PREFIX, said_by_the_gate
from memos_mcp.openai_api.routes import openai_routes
from memos_mcp.openai_api.running import Replies

__all__ = ["PREFIX", "Replies", "openai_routes", "said_by_the_gate"]
