"""Record one pass of the user's own model: what each encoder layer did."""
