"""Tokens, scores and numbers as HTML: knows strings and numbers alone."""
