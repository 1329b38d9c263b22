"""What the readers of saved programs share: each backend's reader translates the ops of its own format."""
