"""The judges of notebook 01's exercises."""
