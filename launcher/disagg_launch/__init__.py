"""disagg-launch: one topology file, one plan, and everything that starts from it."""

__version__ = "0.1.0"
