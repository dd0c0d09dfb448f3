"""Fails at import, with a message of two lines."""

raise ImportError("needs a library\nthat isn't there")
