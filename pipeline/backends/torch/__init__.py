"""The backend of PyTorch, one file a subject; `backend` has what `base.Backend` asks for."""
