"""Records to MLflow and back; the only importer of mlflow.

`store` prepares and asks the tracking store, `sqlite` makes and opens one that is a file; `run`
opens and closes runs, `logger` is what is logged to one, as messages that wait in a `spool` on
disk; `courier` is the thread that takes them to the store, `deliver` says how; `recover` closes
what dead processes left; `query` looks runs up; `views` is what MLflow's pages show.
"""
