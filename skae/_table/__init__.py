"""Tables as they are: columns of every kind to numbers, and numbers to the same table."""

from skae._table._encoder import Block, TableEncoder

__all__ = ["Block", "TableEncoder"]
