"""The base of every error that tells the user what to mend."""

from __future__ import annotations


class UserError(ValueError):
    """Input that cannot be used: an argument, a file, data or a server.

    The message names the value, the expectation and the remedy; the command line prints it without
    a traceback. Every other exception is a fault of the program, whose traceback is wanted.
    """


class MissingPackageError(UserError, ImportError):
    """An optional package that is not installed; the message says how to get it."""


class RenderError(UserError, RuntimeError):
    """No OpenGL platform to draw pictures with; the message says how to get one."""
