"""A page to try steering by hand: a prompt, methods, layers and strengths, answers that stream side by side.

What it computes (:mod:`~mechsteer.explorer.desk`) and says as Python (:mod:`~mechsteer.explorer.setting`) knows nothing
of a page; the page (:mod:`~mechsteer.explorer.page`) is Panel's, in the extra ``explore``.
"""

from mechsteer.explorer.explore import explore
from mechsteer.explorer.frozen import attention_frozen

__all__ = ["attention_frozen", "explore"]
