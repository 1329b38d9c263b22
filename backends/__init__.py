"""Backends: where compressed models go, and how to add one."""

from graphpress.backends.registry import (
    Backend,
    BackendRegistrationError,
    UnknownBackendError,
    lookup_backend,
    register_backend,
    registered_backends,
    unregister_backend,
)

__all__ = [
    "Backend",
    "BackendRegistrationError",
    "UnknownBackendError",
    "lookup_backend",
    "register_backend",
    "registered_backends",
    "unregister_backend",
]
