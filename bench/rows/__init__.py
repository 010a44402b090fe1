"""The rows, by subject.  A row's docstring says where it comes from."""
