"""A stand-in for Colab's own module: that it is loaded is how the setup cell knows where it is."""
