"""The backend of NumPy, one file a subject; `backend` has what `base.Backend` asks for."""
