"""Models: finding one on this machine or elsewhere, and loading it. Imports torch lazily."""

from nbft.models.base import BaseModel
from nbft.models.find import FoundModel, find_local, find_model

__all__ = ["BaseModel", "FoundModel", "find_local", "find_model"]
