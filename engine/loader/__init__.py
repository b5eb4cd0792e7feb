"""MemLoader: what a bundle holds becomes a cube of this store, or brings one up to date."""

from engine.loader.installing import inspect, install, listed

__all__ = ["inspect", "install", "listed"]
