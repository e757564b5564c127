"""A night without a device: the scheduler is the real one, a clock stands for the device.

Begin with `simulate`; `clock` is the modelled device.
"""
