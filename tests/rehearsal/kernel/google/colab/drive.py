"""Google Drive, which nobody allows to be mounted here."""


def mount(mountpoint: str, force_remount: bool = False, timeout_ms: int = 120000) -> None:
    raise ValueError("mount failed: access was not granted")
