"""The process boundary: the format of the job folder and of the messages that come back, in `format`."""
