"""The backend of TensorFlow, one file a subject; `backend` has what `base.Backend` asks for."""
