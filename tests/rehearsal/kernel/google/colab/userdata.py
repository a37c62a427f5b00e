"""Colab's secrets. ``REHEARSAL_SECRET`` says what they answer: a token, or how they refuse."""

import os

from google.colab import errors


class SecretNotFoundError(errors.Error):
    """There is no such secret."""


class NotebookAccessError(Exception):  # not an Error, in Colab neither
    """The learner has not given this notebook access to it."""


class TimeoutException(errors.Error):
    """The learner has not clicked."""


def get(key: str) -> str:
    answer = os.environ.get("REHEARSAL_SECRET", "NotebookAccessError")
    refusal = globals().get(answer)
    if refusal is not None:
        raise refusal(f"Requesting secret {key}: refused.")
    return answer
