"""HTML of tokens, scores and numbers, from strings and numbers alone."""
