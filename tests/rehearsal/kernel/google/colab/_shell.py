"""The shell of the kernel: libraries look for "google.colab" in its name."""

from ipykernel.zmqshell import ZMQInteractiveShell


class Shell(ZMQInteractiveShell):
    """As any other."""
