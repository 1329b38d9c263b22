"""What maintainers run on the repository itself; not part of the wheel."""
