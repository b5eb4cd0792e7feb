"""Mounts: folders of notes and bundles that are shown as read-only cubes and followed as they change."""

from engine.watcher.watcher import Watcher

__all__ = ["Watcher"]
