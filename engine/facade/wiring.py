"""What every part of the facade may use: the open store, and those who work on it."""

from __future__ import annotations

import threading

from engine.answering.answering import Answering
from engine.distilling.distilling import Distilling
from engine.drawing.drawing import Drawing
from engine.forgetting import Forgetting
from engine.moving import Moving
from engine.moving.adapters import Adapters
from engine.parts import Parts
from engine.recalling import Recalling
from engine.scheduling import Scheduling
from engine.watcher import Watcher


class Wired:
    """What `MemOS` makes at the opening, by the names that its parts know."""

    _parts: Parts
    _recalling: Recalling
    _answering: Answering
    _distilling: Distilling
    _drawing: Drawing
    _adapters: Adapters
    _moving: Moving
    _scheduling: Scheduling
    _forgetting: Forgetting
    _watcher: Watcher
    _work: threading.Event  # set: there is something to do in the background
