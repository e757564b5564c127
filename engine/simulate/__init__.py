"""A night without a device: the scheduler is the real one, a clock stands for the device."""
