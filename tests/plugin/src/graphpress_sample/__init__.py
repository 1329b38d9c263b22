"""What a package outside graphpress adds to it."""
