"""Multiruns: what is refused before one starts, how its jobs run and are stopped, how it is closed.

Hydra calls `callback.OpenParent` in its own process before the first job. There everything that can
be refused is refused (`plan`), the launcher is made ready (`launchers`), and the parent run is
opened (`opened`). Its id travels to the jobs, wherever they run, in an environment variable that
Hydra sets around each job. Hydra does not call back when a job raised, so jobs return their
failures, and the command itself calls `close.finish` in every case.

Jobs in other processes are stopped through files (`workers`): each one writes its name into a
folder of the sweep while it runs, and watches for the file ``stop`` there. Launchers would kill
them outright.
"""
