"""MemScheduler at work: uses noted, plans made and carried out, every move told of and undone on request."""

from engine.scheduling.scheduling import Scheduling

__all__ = ["Scheduling"]
