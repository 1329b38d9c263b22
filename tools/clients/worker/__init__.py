"""The part that runs in a child process of either side: it imports torch, a client, and the package of its side."""
