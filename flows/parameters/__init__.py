"""The parameters of each flow: forms in Prefect, options on the command line, requests to the tasks."""
