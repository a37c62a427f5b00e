"""``python -m sawyer_utils COMMAND``."""

from sawyer_utils.course.cli import main

if __name__ == "__main__":
    main()
