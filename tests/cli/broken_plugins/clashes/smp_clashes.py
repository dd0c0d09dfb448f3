"""Must never be imported: its names are taken."""

raise AssertionError("a method whose name two packages claim was imported")
