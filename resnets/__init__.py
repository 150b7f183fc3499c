"""Deep residual networks and their plain twins (He et al., arXiv 1512.03385)."""

__version__ = "0.1.0"
