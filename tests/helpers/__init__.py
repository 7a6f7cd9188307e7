"""What several test files use; fixtures that all of them may ask for are in conftest.py."""
