"""Statistics: what a criterion needs to know about a layer besides its weight, gathered once."""

from worker.pruning.statistics.calibration import Calibration, default_loss
from worker.pruning.statistics.gather import gather, reads_of
from worker.pruning.statistics.layer import (
    LayerNeverRan,
    LayerStatistics,
    MissingStatistic,
    NoBatchNorm,
    NonfiniteStatistics,
    ReadsStatistics,
    Statistic,
)

__all__ = [
    "Calibration",
    "LayerNeverRan",
    "LayerStatistics",
    "MissingStatistic",
    "NoBatchNorm",
    "NonfiniteStatistics",
    "ReadsStatistics",
    "Statistic",
    "default_loss",
    "gather",
    "reads_of",
]
