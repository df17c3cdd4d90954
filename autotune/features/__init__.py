"""Hidden states of frozen layers, computed once and read by every trial of a study."""

from autotune.features.eviction import Room, Usage, make_room, usage
from autotune.features.layout import Layout
from autotune.features.part import FeaturePart
from autotune.features.reader import Reader
from autotune.features.store import FeatureStore
from autotune.features.writer import Writer

__all__ = ["FeaturePart", "FeatureStore", "Layout", "Reader", "Room", "Usage", "Writer", "make_room", "usage"]
