"""Activation memory: attention KV caches, exact as prefixes, composable as chunks, compressed or not."""
