"""The commands of `memos-mcp`, by what they are about; `arguments` has the words, the other modules do the work."""
