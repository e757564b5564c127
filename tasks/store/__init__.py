"""Where bytes live: the contract of a store, a folder, S3, and opening one."""
