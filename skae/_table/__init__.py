"""Tables as they are: columns of every kind to numbers, and numbers to the same table."""

from skae._table._encoder import Block, TableEncoder, needs_encoding

__all__ = ["Block", "TableEncoder", "needs_encoding"]
