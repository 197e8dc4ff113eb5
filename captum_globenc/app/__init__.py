"""The command line and the web demo: thin front ends to what the package computes."""
