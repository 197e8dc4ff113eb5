"""Explanations as plain data: their parts, files and views.

This package needs no model and no tokenizer, so that saved explanations can be read without them.
"""
