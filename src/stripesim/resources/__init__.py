"""The resources, one module for each: what its objects look like and what its routes do."""

from importlib import import_module
from pkgutil import iter_modules


def load() -> None:
    """Import every resource, so that its kinds, routes and jobs are known."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
