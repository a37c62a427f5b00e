"""What Colab's own modules raise."""


class Error(Exception):
    """The base class of most of it."""
