"""tomllib of the standard library; Python 3.10 has it as the package tomli."""

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

__all__ = ["tomllib"]
