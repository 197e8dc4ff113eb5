"""One pass of the user's own model under hooks: what each encoder layer did."""
