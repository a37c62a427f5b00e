c = get_config()  # noqa: F821, IPython has it
c.IPKernelApp.kernel_class = "google.colab._kernel.Kernel"
