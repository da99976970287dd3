"""Report a file that cannot be used."""


class BadImageError(Exception):
    """Report a file that gives no usable pixels: ``problem: what was seen``."""
