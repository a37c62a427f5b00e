# What a Colab kernel has in memory before the first cell: its own module, and pandas with pyarrow.
import google.colab  # noqa: F401
import pandas  # noqa: F401
import pyarrow  # noqa: F401
