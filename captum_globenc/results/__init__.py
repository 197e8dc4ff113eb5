"""The result object: an explanation as plain data, its parts, its files, and how it is shown.

Knows no model and no tokenizer, so that a saved file can be read where there is neither.
"""
