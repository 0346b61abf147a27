"""Names that a package exports and imports only when one is first asked for."""

from collections.abc import Callable
from importlib import import_module


def export_lazily(package: str, modules: dict[str, str]) -> tuple[list[str], Callable]:
    """Return a package's `__all__` and `__getattr__`.

    modules: name of a module -> the names that it has, with spaces between them.
    """
    places = {name: module for module, names in modules.items() for name in names.split()}

    def get(name: str):
        if name not in places:
            raise AttributeError(f"module {package} has no attribute {name}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return sorted(places), get
