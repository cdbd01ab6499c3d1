"""The settings, one file per section. See `base.setting`."""

from nbft.config.base import Section, Setting
from nbft.config.config import Config, settings
from nbft.config.io import presets

__all__ = ["Config", "Section", "Setting", "presets", "settings"]
