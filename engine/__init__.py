"""How memory lives: vault, indexes, recall, lifecycle, governance. It knows no MCP, no HTTP and no JSON-RPC."""
