"""Studies: one module a paper; tables first, figures from tables, published numbers beside ours."""

from mechsteer.studies import steering, t5_dola
from mechsteer.studies.published import published

__all__ = ["published", "steering", "t5_dola"]
