"""GlobEnc token attribution for Hugging Face encoders, as a Captum method."""
