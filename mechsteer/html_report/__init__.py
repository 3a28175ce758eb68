"""Reports as pages: one file that needs no network, for a browser on a desk or a phone, by pointer or keyboard.

:func:`page` puts a :class:`Report` into it: sentences, figures, heat maps with examples, tables that sort and filter,
answers side by side, provenance, and the command that makes it again. Whatever came from a model is text there.
"""

from mechsteer.html_report.heat import Heat
from mechsteer.html_report.page import Report, page, write
from mechsteer.html_report.provenance import provenance_of
from mechsteer.html_report.samples import Samples, samples_of

__all__ = ["Heat", "Report", "Samples", "page", "provenance_of", "samples_of", "write"]
