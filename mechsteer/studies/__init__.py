"""Studies: one module a paper; tables first, figures from tables, published numbers beside ours."""

from mechsteer.studies import t5_dola
from mechsteer.studies.published import published

__all__ = ["published", "t5_dola"]
