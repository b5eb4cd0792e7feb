"""Recall: from a question to ranked memories, with reasons and within a token budget."""

from engine.recall.budget import Kept, fit
from engine.recall.ranking import Candidate, Ranking, meaning, rank

__all__ = ["Candidate", "Kept", "Ranking", "fit", "meaning", "rank"]
