"""GlobEnc's tensor math: does not know models, hooks or Captum."""
