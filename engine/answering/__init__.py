"""Answering from memory with a model: recall, choose the form of each memory, assemble, generate."""
