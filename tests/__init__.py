"""Tests. The type checker of the test runs is found as an attribute of this package."""

from tests import typecheck as typecheck
