"""One file a family of methods. Every file here is imported, so a method is known by lying here.

They never import plan, runner or report.
"""

import importlib
import pkgutil

from ..registry import check_needs


for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")
check_needs()
