"""What a run was and did: its record, the trace of its steps, and its checkpoints."""
