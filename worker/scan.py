"""Import every module of a folder of plug-ins, so that what they register is known."""

import importlib
import pkgutil
from functools import cache


@cache
def import_modules(package: str) -> None:
    """Import each module of a package once; again, it does nothing."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
