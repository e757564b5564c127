"""Errors of the engine: each names the setting or field at fault and what to do about it."""


class EngineError(Exception):
    """A fatal condition: the engine process ends and the run can be resumed."""


class RetryableError(EngineError):
    """A condition that may pass: the process ends, and a new one may go on. Its text is safe to show."""


class OptionError(EngineError):
    """An option of an engine is wrong, or what it names is not as it should be.

    Parameters
    ----------
    option
        As the person typed it (`--engine-option url`).
    message, remedy
        What is wrong, and what to do about it. Neither holds a key.
    """

    def __init__(self, option: str, message: str, remedy: str) -> None:
        super().__init__(f"{option}: {message}; {remedy}")
        self.option, self.message, self.remedy = option, message, remedy


class UnsupportedModelError(EngineError):
    """The model folder asks for something this engine does not compute."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        self.field = field
        super().__init__(f"--model: config.json: {field} = {value!r} is not supported; {remedy}")


class DeviceBusyError(EngineError):
    """Another process has the device; nothing is wrong, and it may be free later."""


class CapacityError(EngineError):
    """A memory or length setting cannot hold a single request."""
