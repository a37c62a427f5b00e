"""The kernel: what is imported here is in memory before a notebook's first cell."""

import pandas  # noqa: F401
import pyarrow  # noqa: F401
from google.colab import _shell
from ipykernel.ipkernel import IPythonKernel
from traitlets import Type


class Kernel(IPythonKernel):
    """As any other, with Colab's shell."""

    shell_class = Type(_shell.Shell)
