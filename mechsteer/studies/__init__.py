"""Studies: one module a paper; tables first, figures from tables, published numbers beside ours."""

from mechsteer.studies import t5_dola

__all__ = ["t5_dola"]
