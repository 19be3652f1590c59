"""A sweep while it runs: what each job leaves of itself on disk, and a live table made of it.

Not to be confused with a sweep's books: how a job ended is read from the store. A job, in whatever
process it runs, writes one small file; the main process reads them all a few times a second. So no
job waits for the table, and one that was killed is known by its process. On a terminal there is a
table, and whatever is written there meanwhile, by any process, appears above it; elsewhere a line
when a job starts and when it ends.
"""
