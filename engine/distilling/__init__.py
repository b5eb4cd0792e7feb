"""Memories become adapters of the local model, now or in the background; long work of every kind is done in turns."""

from engine.distilling.distilling import Distilling
from engine.distilling.working import Kind, Task, Working

__all__ = ["Distilling", "Kind", "Task", "Working"]
