"""What modules may promise to removal."""

from typing import Protocol, runtime_checkable

PADDED = ("channels_before", "channels_after")


@runtime_checkable
class PadsChannels(Protocol):
    """A module that pads channels of zeros before and after those that it is given.

    Its attributes say how many, and are changed when some of those channels are removed.
    """

    channels_before: int
    channels_after: int
