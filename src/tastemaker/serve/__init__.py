"""The system in use: what was shown and said, kept; pictures made on order; lists that learn. Import the modules."""

from importlib.util import find_spec

from tastemaker.errors import MissingExtra

if find_spec("sqlalchemy") is None:
    raise MissingExtra("sqlalchemy", "serve")
