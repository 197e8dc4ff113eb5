"""GlobEnc's tensor maths: knows no model, no hook, no Captum."""
