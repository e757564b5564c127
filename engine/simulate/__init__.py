"""A night without a device: the scheduler is the real one, a clock stands for the device.

Begin with `simulate`; `calibrate` fits the device profile that it counts with.
"""
