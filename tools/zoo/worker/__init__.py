"""The part of the zoo that runs in a child process, in either environment.

It imports torch, the architectures, and the package of its own side only.
"""
