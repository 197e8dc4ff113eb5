"""The attribution methods, as Captum classes, one file each, and what they share."""
