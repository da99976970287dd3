"""Open image files that nobody has checked, and say in words what is wrong with them.

Nothing but Pillow is imported here, so that a process which only decodes starts quickly;
:mod:`labs.imagefile.pixels`, which turns every mode into RGB, needs NumPy.
"""

from labs.imagefile.error import BadImageError
from labs.imagefile.read import decode, read, upright
from labs.imagefile.report import FileReport, Rules, check_file

__all__ = ["BadImageError", "FileReport", "Rules", "check_file", "decode", "read", "upright"]
