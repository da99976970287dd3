"""Open image files that nobody has checked, and say in words what is wrong with them.

Nothing but Pillow and NumPy is imported here, so that a process which only decodes starts quickly.
"""

from labs.imagefile.read import BadImageError, decode, read, upright
from labs.imagefile.report import FileReport, Rules, check_file

__all__ = ["BadImageError", "FileReport", "Rules", "check_file", "decode", "read", "upright"]
